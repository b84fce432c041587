"""Connection: a session while someone has it checked out; statements, and the verbs of a transaction.

Transactions are plain statements on the same path as all others, so they have a budget and pass the hook too.
Invariant: once given back, a connection refuses every call; whoever has the session next is never disturbed.
Deliberately absent: LISTEN (`listener` owns a session for that) and cursors.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

import asyncpg

from chimpbase._core.errors import QueryError, Unreachable, UsageError
from chimpbase._pg import lexer
from chimpbase._pg.connector import Record
from chimpbase._pg.session import Session

Row: TypeAlias = Record
TransactionStatus: TypeAlias = Literal["idle", "active", "failed"]

_ISOLATIONS: Final = frozenset({"read committed", "repeatable read", "serializable"})
_SAVEPOINT_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SESSION_TAGS: Final = frozenset({"SET", "RESET", "LISTEN", "DECLARE CURSOR", "LOAD", "CREATE TABLE", "PREPARE"})
_LOCAL_OR_LASTING: Final = re.compile(
    r"\s*(?:set\s+(?:local|transaction|constraints)\b|create\s+(?:unlogged\s+)?table\b)", re.IGNORECASE
)


class Queries:
    """The statements of a connection. Errors are those of `DatabaseError`; a statement has the session's budget."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session: Session | None = session

    def fetch(self, sql: str, *args: object) -> Coroutine[Any, Any, list[Record]]:
        """All rows."""
        return self._marked(sql).fetch(sql, args)

    def fetch_one(self, sql: str, *args: object) -> Coroutine[Any, Any, Record | None]:
        """The first row or None. The server stops there, so a SELECT that writes through functions may do less."""
        return self._marked(sql).fetch_one(sql, args)

    def fetch_value(self, sql: str, *args: object) -> Coroutine[Any, Any, Any]:
        """The first column of the first row; None when there is no row, too."""
        return self._marked(sql).fetch_value(sql, args)

    async def execute(self, sql: str, *args: object) -> str:
        """The status tag, such as `UPDATE 3`."""
        session = self._marked(sql)
        tag = await session.execute(sql, args)
        if tag in _SESSION_TAGS and not _LOCAL_OR_LASTING.match(sql):
            session.dirty = True
        return tag

    async def execute_script(self, sql: str) -> None:
        """Run several statements in one message, as one transaction unless `sql` controls it or one is open."""
        session = self._held()
        session.dirty = True
        await session.execute(sql, ())

    async def copy_in(
        self, table: str, records: Iterable[Sequence[object]], *, columns: Sequence[str], schema: str | None = None
    ) -> str:
        """COPY `records` into `table` in binary; the status tag. Worth it from some 5,000 rows on, below use unnest."""
        session = self._held()

        async def copy(_: str) -> str:
            copying = session.driver.copy_records_to_table(table, records=records, columns=columns, schema_name=schema)
            return await _copied(session, copying, f"the columns {', '.join(columns)} of {table}")

        return await session.run(copy, f"copy {table} from stdin", ())

    @contextmanager
    def budget(self, budget: timedelta) -> Generator[None]:
        """Give each statement inside the block this much time instead."""
        session = self._held()
        before = session.budget_s
        session.budget_s = budget.total_seconds()
        try:
            yield
        finally:
            session.budget_s = before

    def _held(self) -> Session:
        if self._session is None:
            raise UsageError("This connection was given back. Take another one with `db.acquire()`.")
        return self._session

    def _marked(self, sql: str) -> Session:
        session = self._held()
        if lexer.may_last(sql):
            session.dirty = True
        return session


class Connection(Queries):
    """One checked-out connection. Several tasks may use it at once; their statements take turns."""

    __slots__ = ()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, by the server's last word; a transaction does not survive its connection."""
        return self._session is not None and self._session.in_transaction and not self._session.is_closed

    @property
    def is_closed(self) -> bool:
        """Whether it was given back or its socket is gone."""
        return self._session is None or self._session.is_closed

    @property
    def is_fresh(self) -> bool:
        """Whether nothing ran on it yet since it was connected, so that it cannot have gone stale in the pool."""
        return self._session is not None and self._session.fresh

    @property
    def backend_pid(self) -> int:
        return self._held().driver.get_server_pid()

    def transaction_status(self) -> TransactionStatus:
        """No round trip. `failed` means that only a rollback, whole or to a savepoint, is accepted."""
        if not self.in_transaction:
            return "idle"
        return "failed" if self._held().failure else "active"

    async def begin(self, *, isolation: str | None = None) -> None:
        """Open a transaction; `isolation` is `read committed` (the default), `repeatable read` or `serializable`."""
        if isolation is not None and isolation not in _ISOLATIONS:
            raise UsageError(f"There is no isolation level {isolation!r}; there are: {', '.join(sorted(_ISOLATIONS))}.")
        if self.in_transaction:
            raise UsageError("A transaction is open on this connection already. Use `savepoint` to nest.")
        await self._held().execute("begin" if isolation is None else f"begin isolation level {isolation}", ())

    async def commit(self, last: str | None = None) -> None:
        """Commit. A cancelled caller gets its cancellation after the COMMIT has ended, one way or the other.

        `last` is a statement without parameters to be run first, in the same round trip; when it fails, its error is
        raised, nothing is committed, and the transaction is still to be rolled back.

        Raises:
            OutcomeUnknown: the connection ended before the answer.
            ConstraintViolation, SerializationConflict: the server refused; nothing is committed.
            QueryError: an earlier statement failed, so the server rolled back instead.
            Unreachable: the connection was gone before; nothing is committed.
            UsageError: no transaction is open, for instance because a COMMIT was run as a statement.
        """
        session = self._held()
        if session.is_closed:
            raise Unreachable(
                "The connection was closed while its transaction was open and idle, so nothing is committed. The "
                "server was restarted, or it ended what was idle for longer than idle_in_transaction_session_timeout."
            )
        if not session.in_transaction:
            raise UsageError("No transaction is open: a COMMIT or ROLLBACK was run as a statement. Leave them to us.")
        reason = session.failure
        tag = await session.run_to_the_end("commit" if last is None else f"{last}; commit")
        if tag == "ROLLBACK":
            raise QueryError(
                "COMMIT rolled back, because an earlier statement of the transaction failed and that was caught. "
                "Run a statement that may fail under a savepoint.",
                sqlstate="25P02",
            ) from reason

    async def rollback(self) -> None:
        """Roll back; nothing to do when no transaction is open or the connection is gone."""
        if self.in_transaction:
            await self._held().execute("rollback", ())

    async def savepoint(self, name: str) -> None:
        """Mark a place to come back to. `name` is lower case letters, digits and `_`."""
        await self._held().execute(f"savepoint {savepoint_name(name)}", ())

    async def release(self, name: str) -> None:
        """Keep what was done since the savepoint, and forget it."""
        await self._held().execute(f"release savepoint {savepoint_name(name)}", ())

    async def rollback_to(self, name: str) -> None:
        """Take back what was done since the savepoint; it stays, and a failed transaction is active again."""
        await self._held().execute(f"rollback to savepoint {savepoint_name(name)}", ())

    def detach(self) -> Session | None:
        """Take the session away from whoever holds this; for `Db`, when it is given back."""
        session, self._session = self._session, None
        return session


async def _copied(session: Session, copying: Coroutine[Any, Any, str], place: str) -> str:
    # The driver waits for the socket to take more bytes, and nothing wakes it when the socket is closed.
    task = asyncio.create_task(copying)

    def stop(_: object) -> None:
        task.cancel()

    session.driver.add_termination_listener(stop)
    try:
        return await task
    except (asyncpg.PostgresError, OSError):
        raise
    except BaseException as error:
        cancelled = isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception)
        if session.is_closed:
            raise ConnectionResetError("it was closed during COPY") from error
        session.terminate()  # the server is in the middle of a COPY that has no end
        if cancelled:
            raise
        raise QueryError(
            f"A record does not fit {place}: {type(error).__name__}: {error}. Nothing was stored, and the "
            "connection was closed."
        ) from error


def savepoint_name(name: str) -> str:
    """`name`, which goes into the text of a statement, if it is lower case letters, digits and `_`."""
    if not _SAVEPOINT_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a savepoint; use lower case letters, digits and `_`.")
    return name
