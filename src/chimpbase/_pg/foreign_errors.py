"""Foreign errors: what the drivers and libraries of others raise, as the errors of `_core/errors.py`.

They are told apart by what PEP 249 gives every driver, the names of its classes, and by the SQLSTATE; nothing of theirs
is imported. A library's error is followed to the driver's that it wraps, since only that knows what the server said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import asyncpg

from chimpbase._core.errors import ChimpbaseError, QueryError, Unreachable, UsageError
from chimpbase._pg.translate import as_said, hush, refusal, translate

_LIBRARIES: Final = frozenset({"sqlalchemy", "django"})


def understand(error: Exception, *, statement: str, given: Sequence[object] = ()) -> tuple[ChimpbaseError, Exception]:
    """What `error`, met while `statement` ran, means to us, and the driver's own error, hushed, to be its cause."""
    chain = list(_followed(error))
    for link in reversed(chain):
        if isinstance(link, ChimpbaseError):
            return link, link
        if isinstance(link, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            return translate(link, statement=statement, given=given), link
        if state := _state(link):
            return _refused(link, state, statement, given), link
    return _from_client(chain[-1], statement), chain[-1]


def _followed(error: BaseException | None) -> Iterator[Exception]:
    """The error and those it wraps, outermost first."""
    seen: set[int] = set()
    while isinstance(error, Exception) and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "orig", None) or error.__cause__


def _state(error: Exception) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _refused(error: Exception, state: str, statement: str, given: Sequence[object]) -> ChimpbaseError:
    diagnosis: Any = getattr(error, "diag", None)

    def field(name: str) -> str | None:
        return getattr(diagnosis, name, None)

    said = as_said(
        state=state,
        message=field("message_primary") or str(error),
        detail=field("message_detail"),
        hint=field("message_hint"),
        constraint=field("constraint_name"),
        table=field("table_name"),
        given=given,
    )
    hush(error, said.text)
    return refusal(said, statement)


def _from_client(error: Exception, statement: str) -> ChimpbaseError:
    """An error that no server sent."""
    names = {cls.__name__ for cls in type(error).__mro__}
    # a library goes on with the statement and its parameters
    text = str(error).partition("\n[SQL:")[0].strip().rstrip(".") or type(error).__name__
    if "OperationalError" in names or ("InterfaceError" in names and "closed" in text):
        return Unreachable(f"{statement} found no connection to PostgreSQL: {text}.", sqlstate="08006")
    library = type(error).__module__.partition(".")[0]
    if library in _LIBRARIES and "DatabaseError" not in names:
        return UsageError(f"{statement} was refused by {library}: {text}.")
    if names & {"DatabaseError", "InterfaceError"}:
        return QueryError(f"{statement} was not sent: {text}.")
    return translate(error, statement=statement)
