"""Db: the one seam through which every statement of the program passes.

A pool of sessions, the settings on them, and the way back of a session into the pool. Invariant: whatever its user did,
a session is lent again only outside a transaction and with its own settings. Deliberately absent: what a transaction is
for; callers decide where one begins and ends.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from random import Random
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

from chimpbase._core.errors import ChimpbaseError, ConfigError, Unreachable
from chimpbase._pg.connection import Connection
from chimpbase._pg.connector import Connector, Record
from chimpbase._pg.faults import StatementHook
from chimpbase._pg.pool import Pool
from chimpbase._pg.session import Session

__all__ = ["Db", "Queryable", "StatementHook", "Transactional"]

T = TypeVar("T")
_log = logging.getLogger("chimpbase.pg")

_OLDEST_SERVER: Final = 140000
_LIFETIME_S: Final = 30 * 60.0
_CLEANING_BUDGET_S: Final = 5.0
_LOCK_SHARE: Final = 0.8  # of the budget: a lock that is not had by then is reported as such, not as a slow statement


class Queryable(Protocol):
    """What `Db` and `Connection` have in common: on `Db` each statement is its own transaction."""

    def fetch(self, sql: str, *args: object) -> Awaitable[list[Record]]: ...
    def fetch_one(self, sql: str, *args: object) -> Awaitable[Record | None]: ...
    def fetch_value(self, sql: str, *args: object) -> Awaitable[Any]: ...
    def execute(self, sql: str, *args: object) -> Awaitable[str]: ...


class Transactional(Queryable, Protocol):
    """What `Connection` and `Foreign` have in common: statements in a transaction, and savepoints in it."""

    def savepoint(self, name: str) -> Awaitable[None]: ...
    def release(self, name: str) -> Awaitable[None]: ...
    def rollback_to(self, name: str) -> Awaitable[None]: ...


class Db:
    """Made by `Db.open`, and used only in the event loop it was opened in."""

    def __init__(
        self,
        connector: Connector,
        *,
        size: int,
        budget: timedelta,
        checkout_timeout: timedelta,
        hook: StatementHook | None,
        random: Random,
    ) -> None:
        self._connector = connector
        self._hook = hook
        self._budget_s = budget.total_seconds()
        self._checkout_timeout_s = checkout_timeout.total_seconds()
        self._random = random
        self._clock_shift = timedelta(0)
        self._pool = Pool(self._open_session, size=size, lifetime_s=_LIFETIME_S, on_pooler=connector.distrust_sessions)
        self.size = size
        self.server_version = 0

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        size: int = 10,
        budget: timedelta = timedelta(seconds=10),
        checkout_timeout: timedelta = timedelta(seconds=10),
        connect_timeout: timedelta = timedelta(seconds=10),
        session: Mapping[str, str] | None = None,
        application_name: str,
        json: bool = False,
        hook: StatementHook | None = None,
        random: Random | None = None,
    ) -> Db:
        """Connect once, to know the server; further connections are made when they are needed, at most `size`.

        `budget` is for each statement, `checkout_timeout` for getting a connection, connecting included. `session` are
        settings of every connection. With `json`, json and jsonb values are Python objects, otherwise text.

        Raises:
            ConfigError: the URL, the credentials or a setting are wrong, or the server is older than PostgreSQL 14.
            Unreachable: there is no such server, or it refuses connections for now.
        """
        lock_timeout_ms = round(budget.total_seconds() * 1000 * _LOCK_SHARE)
        connector = Connector(
            dsn,
            application_name=application_name,
            session={"lock_timeout": f"{lock_timeout_ms}ms", **(session or {})},
            connect_timeout_s=connect_timeout.total_seconds(),
            json=json,
        )
        db = cls(
            connector,
            size=size,
            budget=budget,
            checkout_timeout=checkout_timeout,
            hook=hook,
            random=random or Random(),
        )
        first = await db._pool.wait(connect_timeout.total_seconds())
        major, _, minor, *_rest = first.driver.get_server_version()
        db.server_version = major * 10000 + minor
        db._pool.put(first)
        if db.server_version < _OLDEST_SERVER:
            await db.close(grace=timedelta(0))
            raise ConfigError(
                f"PostgreSQL at {connector.where} is version {major}.{minor}; chimpbase needs 14 or newer. Upgrade it.",
                key="database_url",
                expected="PostgreSQL 14 or newer",
            )
        return db

    @property
    def connector(self) -> Connector:
        """For a connection outside of the pool, such as a `Listener`'s."""
        return self._connector

    @property
    def pooled(self) -> bool:
        """Whether a transaction pooler is in between: no prepared statements, no settings of ours, no LISTEN."""
        return self._connector.pooled

    async def checkout(self, *, timeout: timedelta | None = None) -> Connection:
        """A connection to be given back with `give_back`; `acquire` is the same as a block.

        Raises:
            Unreachable: no server, or all connections busy, for `timeout` (default: the checkout timeout).
        """
        return Connection(await self._session(None if timeout is None else timeout.total_seconds()))

    async def give_back(self, connection: Connection) -> None:
        """Return a connection; an open transaction is rolled back. Twice is once. Never raises `DatabaseError`."""
        session = connection.detach()
        if session is not None:
            await self._return(session)

    def acquire(self, *, timeout: timedelta | None = None) -> AbstractAsyncContextManager[Connection]:
        """A connection for the length of a block; no transaction is opened."""
        return _Lent(self, timeout)

    def transaction(
        self, *, isolation: str | None = None, timeout: timedelta | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """A connection in a transaction: committed at the end of the block, rolled back when the block raises."""
        return _Transaction(self, timeout, isolation)

    async def begin(self, *, isolation: str | None = None, timeout: timedelta | None = None) -> Connection:
        """`checkout` and BEGIN. A pooled connection that turns out dead is replaced unseen, as nothing is lost yet."""
        while True:
            connection = await self.checkout(timeout=timeout)
            may_be_stale = not connection.is_fresh
            try:
                await connection.begin(isolation=isolation)
                return connection
            except BaseException as error:
                await self.give_back(connection)
                if not (may_be_stale and isinstance(error, Unreachable)):
                    raise

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        """All rows of one statement in a transaction of its own.

        Raises:
            OutcomeUnknown: the connection ended before the answer, and the statement may have changed something.
            DatabaseError: anything else; nothing is committed.
        """
        return await self._once(Session.fetch, sql, args)

    async def fetch_one(self, sql: str, *args: object) -> Record | None:
        """As `fetch`, the first row or None."""
        return await self._once(Session.fetch_one, sql, args)

    async def fetch_value(self, sql: str, *args: object) -> Any:
        """As `fetch`, the first column of the first row; None when there is no row, too."""
        return await self._once(Session.fetch_value, sql, args)

    async def execute(self, sql: str, *args: object) -> str:
        """As `fetch`, the status tag."""
        return await self._once(Session.execute, sql, args)

    def listen(self, hook: StatementHook | None) -> None:
        """Let a hook stand around every statement from now on, for tests: connections at rest are replaced."""
        self._hook = hook
        self._pool.expire()

    def shift_clock(self, delta: timedelta) -> None:
        """Move the database clock of our own SQL functions, for tests: each connection learns it when next taken."""
        self._clock_shift = delta

    async def close(self, *, grace: timedelta) -> None:
        """Wait up to `grace` for connections in use, then close everything. Over after `grace` and a second at most."""
        await self._pool.close(grace_s=grace.total_seconds())

    async def _once(self, run: Callable[[Session, str, tuple[object, ...]], Awaitable[T]], sql: str, args: Any) -> T:
        while True:
            session = await self._session(None)
            may_be_stale = not session.fresh
            try:
                return await run(session, sql, args)
            except Unreachable:
                if not (may_be_stale and session.unsent):
                    raise
            finally:
                if session.is_clean():
                    self._pool.put(session)
                else:
                    await self._return(session)

    async def _session(self, timeout_s: float | None) -> Session:
        session = self._pool.take() or await self._pool.wait(
            self._checkout_timeout_s if timeout_s is None else timeout_s
        )
        if session.clock_shift != self._clock_shift:
            await self._shift(session)
        return session

    async def _shift(self, session: Session) -> None:
        shift = self._clock_shift
        try:
            text = f"{shift // timedelta(microseconds=1)} microseconds"
            await session.execute("select set_config('chimpbase.clock_shift', $1, false)", (text,))
        except BaseException:
            self._pool.drop(session)
            raise
        session.clock_shift = shift

    async def _return(self, session: Session) -> None:
        """Make the session clean and put it back; what does not come clean in time is ended."""
        session.budget_s = self._budget_s
        try:
            if not session.is_clean():
                await self._clean(session)
        except ChimpbaseError as error:
            _log.debug("A connection was closed because it could not be cleaned: %s", error)
        finally:
            if session.is_clean():
                self._pool.put(session)
            else:
                self._pool.drop(session)

    async def _clean(self, session: Session) -> None:
        if session.is_closed or session.busy:  # busy: another task still uses what was given back
            return
        session.budget_s = min(_CLEANING_BUDGET_S, self._budget_s)
        if session.in_transaction:
            await session.execute("rollback", ())
        if session.dirty:
            await session.reset()
        session.budget_s = self._budget_s

    async def _open_session(self, within_s: float, generation: int) -> Session:
        driver = await self._connector.connect(within_s=within_s)
        session = Session(
            driver,
            budget_s=self._budget_s,
            hook=self._hook,
            on_failure=self._pool.on_failure,
            generation=generation,
        )
        # Those opened together must not all be replaced in one moment half an hour later.
        session.born -= self._random.uniform(0, 0.1) * _LIFETIME_S
        return session


class _Lent(AbstractAsyncContextManager[Connection]):
    """A connection for the length of a block."""

    __slots__ = ("_connection", "_db", "_timeout")

    def __init__(self, db: Db, timeout: timedelta | None) -> None:
        self._db = db
        self._timeout = timeout
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        self._connection = connection = await self._db.checkout(timeout=self._timeout)
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._db.give_back(self._connection)


class _Transaction(_Lent):
    """The same inside a transaction; giving back rolls back what is still open."""

    __slots__ = ("_isolation",)

    def __init__(self, db: Db, timeout: timedelta | None, isolation: str | None) -> None:
        super().__init__(db, timeout)
        self._isolation = isolation

    async def __aenter__(self) -> Connection:
        self._connection = connection = await self._db.begin(isolation=self._isolation, timeout=self._timeout)
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._connection is not None:
                await self._connection.commit()
        finally:
            await super().__aexit__(kind, error, trace)
