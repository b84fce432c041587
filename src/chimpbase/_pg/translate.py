"""Translate: the driver's and the server's errors into those of `_core/errors.py`.

Invariant: no other exception of the driver leaves this room, and each of ours keeps it as `__cause__`, with the
server's message, detail and hint in the text. Neither text repeats a value, for both are in every traceback. One table
says what an SQLSTATE means: the five characters first, then the class of two. Deliberately absent: any decision about
retrying, which belongs to whoever knows the work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import asyncpg

from chimpbase._core.errors import (
    CheckViolation,
    ChimpbaseError,
    ConfigError,
    ConstraintViolation,
    DatabaseError,
    ForeignKeyViolation,
    NotNullViolation,
    OutcomeUnknown,
    QueryError,
    SerializationConflict,
    StatementTimeout,
    StorageFull,
    UniqueViolation,
    Unreachable,
)

MEANING: Final[Mapping[str, type[DatabaseError]]] = MappingProxyType(
    {
        "08": Unreachable,  # connection_exception
        "0A": QueryError,  # feature_not_supported
        "21": QueryError,  # cardinality_violation
        "22": QueryError,  # data_exception
        "23": ConstraintViolation,
        "23502": NotNullViolation,
        "23503": ForeignKeyViolation,
        "23505": UniqueViolation,
        "23514": CheckViolation,
        "23P01": CheckViolation,  # exclusion_violation
        "25": QueryError,  # invalid_transaction_state
        "25006": Unreachable,  # read_only_sql_transaction: after a failover this socket leads to a standby
        "25P03": StatementTimeout,  # idle_in_transaction_session_timeout
        "25P04": StatementTimeout,  # transaction_timeout
        "26": Unreachable,  # invalid_sql_statement_name: a transaction pooler gave us another session
        "28": Unreachable,  # invalid_authorization_specification; see `connect_failure`
        "2D": QueryError,  # invalid_transaction_termination
        "34": QueryError,  # invalid_cursor_name
        "3B": QueryError,  # savepoint_exception
        "3D": QueryError,  # invalid_catalog_name
        "3F": QueryError,  # invalid_schema_name
        "40": SerializationConflict,
        "40002": ConstraintViolation,  # transaction_integrity_constraint_violation
        "40003": OutcomeUnknown,  # statement_completion_unknown
        "42": QueryError,  # syntax_error_or_access_rule_violation
        "42P05": Unreachable,  # duplicate_prepared_statement: as 26000
        "44": CheckViolation,  # with_check_option_violation
        "53": StorageFull,  # insufficient_resources
        "53300": Unreachable,  # too_many_connections
        "54": QueryError,  # program_limit_exceeded
        "55": QueryError,  # object_not_in_prerequisite_state
        "55P03": StatementTimeout,  # lock_not_available
        "57": QueryError,
        "57014": StatementTimeout,  # query_canceled
        "57P01": Unreachable,  # admin_shutdown
        "57P02": Unreachable,  # crash_shutdown
        "57P03": Unreachable,  # cannot_connect_now
        "57P04": Unreachable,  # database_dropped
        "57P05": Unreachable,  # idle_session_timeout
        "58": StorageFull,  # system_error: an I/O error of the server
        "P0": QueryError,  # raised by PL/pgSQL
    }
)

_ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "25006": "The server is read-only, a standby or demoted primary; connections to it are being replaced.",
        "25P02": "An earlier statement of this transaction failed, so PostgreSQL refuses the rest. Roll back, or run"
        " the statement that may fail under a savepoint.",
        "25P03": "The transaction was open and idle for too long (idle_in_transaction_session_timeout), and the server"
        " ended it. Do slow work outside the transaction.",
        "26000": "A pooler in transaction mode is in between; prepared statements are now off.",
        "42P05": "A pooler in transaction mode is in between; prepared statements are now off.",
        "42501": "Grant the privilege to the user of the database URL.",
        "53300": "Lower the pool size or raise max_connections.",
        "55P03": "Another transaction holds the lock.",
    }
)

# Wrong credentials and names: only a changed setting helps, so they are not the database's refusal of our work.
_SETTINGS: Final = frozenset({"28000", "28P01", "3D000", "0P000", "22023", "42704", "55P02", "42501"})
POOLER_STATES: Final = frozenset({"26000", "42P05"})

_ARGUMENT: Final = re.compile(r"(?:invalid input for query|query) argument (?P<place>\$\d+)")
_KEY_VALUES: Final = re.compile(r"(?P<key>\b(?:Key|contains) \(.*?\)) ?= ?\(.*\)", re.DOTALL)
_NAMED_VALUE: Final = re.compile(r'\b(?P<what>value|unit|time zone|name) ".*"', re.DOTALL)
_EXPECTED: Final = re.compile(r"\((?P<expected>(?:expected|a |an |value out of|'[^']*' object)[^()]*)\)\s*$")


def is_transient(error: BaseException) -> bool:
    """Whether the same work, done again in a new transaction, may succeed."""
    return isinstance(error, DatabaseError) and error.transient


def translate(error: Exception, *, statement: str = "The statement", given: Sequence[object] = ()) -> ChimpbaseError:
    """What `error`, met while `statement` ran with the values `given`, means to us; `error` is hushed.

    The caller raises it `from error`.
    """
    match error:
        case ChimpbaseError():
            return error
        case asyncpg.InvalidCachedStatementError() | asyncpg.OutdatedSchemaCacheError():
            return SerializationConflict(
                f"{statement} was prepared before a table or type it uses changed. Repeat the transaction.",
                sqlstate=getattr(error, "sqlstate", None),
            )
        case _ if was_not_sent(error):
            return Unreachable(f"{statement} was not sent, because its connection had ended before.")
        case asyncpg.PostgresError() if severity(error):
            said = _said(error, given)
            hush(error, said.text)
            return refusal(said, statement)
        case asyncpg.PostgresConnectionError():
            return lost(error, statement=statement)
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return _from_driver(error, statement)
        case OSError() | EOFError():  # TimeoutError is one of them
            return Unreachable(f"{statement} found no connection to PostgreSQL: {_reason(error)}.")
        case _:
            return DatabaseError(f"{statement} failed in the driver: {type(error).__name__}: {error}")


def was_not_sent(error: Exception) -> bool:
    """Whether the driver noticed, before it sent anything, that the connection had ended.

    It says so in either of two ways: the socket is closed already, or only the server's farewell has been read so far.
    """
    match error:
        case asyncpg.InterfaceError():
            return "connection is closed" in str(error)
        case asyncpg.InternalClientError():
            return "cannot switch to state" in str(error)
        case _:
            return False


def lost(error: BaseException | None, *, statement: str) -> DatabaseError:
    """The connection broke under `statement`; a last word of the server is the driver error's cause."""
    words = error.__cause__ if error else None
    if not isinstance(words, asyncpg.PostgresError):
        words = error if isinstance(error, asyncpg.PostgresError) and severity(error) else None
    if words is None:
        return Unreachable(f"{statement} lost its connection to PostgreSQL: {_reason(error)}.", sqlstate="08006")
    said = _said(words)
    meaning = MEANING.get(said.state, Unreachable)
    kind = meaning if issubclass(meaning, StatementTimeout) else Unreachable
    return kind(f"{statement} lost its connection to PostgreSQL: {said.text}", sqlstate=said.state)


def connect_failure(error: Exception, *, where: str) -> ChimpbaseError:
    """Why no connection to `where` (a redacted DSN) came about."""
    if isinstance(error, asyncpg.PostgresError):
        said = _said(error)
        if said.state in _SETTINGS:
            return ConfigError(
                f"PostgreSQL at {where} refuses us: {said.text} Correct the setting or the database URL."
            )
        kind = MEANING.get(said.state, Unreachable)
        kind = kind if issubclass(kind, StorageFull) else Unreachable
        return kind(f"PostgreSQL at {where} refuses connections: {said.text}", sqlstate=said.state)
    if isinstance(error, ValueError):  # the driver's configuration errors are of this kind
        return ConfigError(f"The database URL {where} is wrong: {_sentence(str(error.args[0]))}")
    if isinstance(error, TimeoutError):
        return Unreachable(f"PostgreSQL at {where} did not answer in time. Check the host, the port and the firewall.")
    return Unreachable(f"PostgreSQL at {where} cannot be reached: {_reason(error)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the server said; `text` is its message, detail and hint as sentences, without the values of rows.

    A text goes into logs and histories of errors, where no payload and no secret may be seen; `detail` is whole.
    """

    state: str
    text: str
    detail: str | None
    constraint: str | None
    table: str | None


def as_said(
    *,
    state: str,
    message: str,
    detail: str | None,
    hint: str | None,
    constraint: str | None,
    table: str | None,
    given: Sequence[object] = (),
) -> Said:
    """The fields of an error message of the server, put together; `given` are the values that it may quote."""
    told = _without_quotes(detail, state) if detail else None
    # Some drivers append a page about poolers to some hints.
    parts = [
        _without_quoted(message, state, given),
        without_values(told),
        hint.strip().partition("\n")[0] if hint else None,
    ]
    text = " ".join(_sentence(part) for part in parts if part)
    return Said(state=state, text=text, detail=detail, constraint=constraint, table=table)


def without_values(detail: str | None) -> str | None:
    """The server's detail without what stands in the row it speaks of; None when nothing else is left."""
    if detail is None or detail.startswith("Failing row contains"):
        return None
    return _KEY_VALUES.sub(r"\g<key>", detail)


def hush(error: Exception, text: str) -> None:
    """Let a driver's error, and what led to it, say `text` and nothing else."""
    error.args = (text,)
    error.__cause__ = error.__context__ = None
    for name in vars(error).keys() & {"detail", "hint"}:
        setattr(error, name, None)


def _without_quoted(message: str, state: str, given: Sequence[object]) -> str:
    """The server's message without the value that it could not take: `invalid input syntax for type json: "..."`."""
    if state[:2] == "22" or state == "42601":
        message = _NAMED_VALUE.sub(r"\g<what>", message.partition(': "')[0])
    if state[:2] in ("22", "42"):
        for value in given:
            # a name is cut off after 63 bytes
            if isinstance(value, str) and value and (found := message.find(f'"{value[:60]}')) >= 0:
                message = f'{message[:found]}"***"{message[message.rfind(chr(34)) + 1 :]}'
    return message


def _without_quotes(detail: str, state: str) -> str | None:
    return None if state[:2] == "22" and '"' in detail else detail


def _said(error: asyncpg.PostgresError, given: Sequence[object] = ()) -> Said:
    """The driver sets these attributes without declaring them."""
    fields: dict[str, str | None] = vars(error)
    return as_said(
        state=str(getattr(error, "sqlstate", None) or ""),
        message=str(error.args[0]) if error.args else "no message",
        detail=fields.get("detail"),
        hint=fields.get("hint"),
        constraint=fields.get("constraint_name"),
        table=fields.get("table_name"),
        given=given,
    )


def severity(error: BaseException | None) -> str:
    """The untranslated severity of what the server said; "" for what the driver made up, which has the same classes."""
    return str(getattr(error, "severity_en", None) or getattr(error, "severity", None) or "")


def refusal(said: Said, statement: str) -> DatabaseError:
    """What the server said while `statement` ran, by its SQLSTATE."""
    kind = MEANING.get(said.state) or MEANING.get(said.state[:2]) or DatabaseError
    advice = _ADVICE.get(said.state)
    text = f"{statement} failed: {said.text}{f' {advice}' if advice else ''}"
    if issubclass(kind, ConstraintViolation):
        return kind(text, sqlstate=said.state, constraint=said.constraint, table=said.table, detail=said.detail)
    return kind(text, sqlstate=said.state)


def _from_driver(error: Exception, statement: str) -> DatabaseError:
    """A call the driver refused before anything was sent. The value itself may be a secret and is not repeated."""
    said = str(error.args[0])
    if argument := _ARGUMENT.search(said):
        expected = _EXPECTED.search(said)
        fit = f": {expected['expected']}" if expected else ""
        said = f"a value that does not fit its argument {argument['place']}{fit}."
        hush(error, said)
        return QueryError(f"{statement} got {said}")
    return QueryError(f"{statement} was not sent: {_sentence(said)}")


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "it was closed"
    text = str(error).strip().rstrip(".")
    return text or type(error).__name__


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
