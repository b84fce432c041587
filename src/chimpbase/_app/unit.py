"""The unit of work: one transaction, opened the first time something touches the database.

A unit is a stack of frames. The root frame is the handler; each action called inside gets a frame of its own, which
is a savepoint once it touches the database. A frame runs alone: while an inner one is open the outer one waits, so
concurrent calls inside one handler take turns and savepoints always nest.

Invariant: what a frame asked to happen after the commit happens only if the frame ended well and the root committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Protocol

from chimpbase._core.errors import DatabaseError, QueryError, UsageError
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db, Transactional

_log = logging.getLogger("chimpbase.transaction")
_innermost: ContextVar[Frame | None] = ContextVar("chimpbase_frame", default=None)
_IDLE_WARNING_S = 5.0

AfterCommit = Callable[[], "Awaitable[None] | None"]


class Held(Protocol):
    """Something outside of the transaction that it holds until its end, such as a lock."""

    async def confirm(self, connection: Connection | None) -> None:
        """Raise when the transaction must not commit, because it is not held any more."""
        ...

    async def let_go(self) -> None:
        """The transaction has ended, one way or the other. Raises nothing."""
        ...


class Work(Protocol):
    """The transaction of which frames are the levels: a `Unit`, or one that belongs to the caller (`bind_unit`)."""

    @property
    def title(self) -> str: ...
    @property
    def transactional(self) -> bool: ...
    @property
    def opened(self) -> bool: ...
    @property
    def holdings(self) -> dict[tuple[str, str], Held]:
        """What is held until this transaction ends, by what it is called."""
        ...

    def connection(self, frame: Frame) -> AbstractAsyncContextManager[Transactional]: ...
    async def rollback(self) -> None: ...
    async def after_statement(self, frame: Frame) -> None: ...

    def followed(self, frame: Frame) -> None:
        """Something more is to follow the commit of this frame."""
        ...

    def check_on_commit(self) -> None:
        """Raise `UsageError` when nobody can tell that this transaction has committed."""
        ...


class Unit:
    """One transaction of one handler, called `title` in messages; without `transaction` each statement commits."""

    __slots__ = ("_connection", "_db", "_ended", "_idle", "_title", "_transactional", "committed", "holdings", "root")

    def __init__(self, db: Db, *, title: str, transaction: bool = True) -> None:
        self._db, self._title, self._transactional = db, title, transaction
        self._connection: Connection | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ended = False
        self.holdings: dict[tuple[str, str], Held] = {}
        self.committed = False
        self.root = Frame(self, parent=None)

    @property
    def title(self) -> str:
        return self._title

    @property
    def transactional(self) -> bool:
        """Whether all of it is one transaction."""
        return self._transactional

    @property
    def opened(self) -> bool:
        """Whether a transaction is open."""
        return self._connection is not None

    @asynccontextmanager
    async def connection(self, frame: Frame) -> AsyncGenerator[Connection]:
        """The connection to run a frame's statement on, inside the transaction and every savepoint it needs."""
        if self._ended:
            raise UsageError(f"The ctx of {self.title} has ended; nothing can be done with it any more.")
        if not self._transactional:
            async with self._db.acquire() as connection:
                yield connection
            return
        connection = await self._open(frame)
        self._watch_idle(None)
        try:
            yield connection
        finally:
            self._watch_idle(connection)
        if connection.transaction_status() == "idle":
            self._ended = True
            raise UsageError(
                f"{self.title} ended its transaction with a statement of its own. The transaction belongs to ctx: "
                "return to commit it, raise to roll it back."
            )

    async def commit(self, before: Callable[[Connection], Awaitable[None]] | None = None) -> None:
        """Commit, with `before` as the last thing inside the transaction; nothing to do when none was opened.

        Raises:
            OutcomeUnknown: the connection died during COMMIT.
            QueryError: an earlier statement failed and its error was caught; nothing was committed.
            UsageError: something that the handler began still runs; nothing was committed.
        """
        if self._transactional and self.root.busy:
            await self.rollback()
            raise UsageError(
                f"{self.title} returned while an action or statement that it began still runs, of which a commit would "
                "keep half. Await it first."
            )
        connection, cancelled = self._connection, None
        self._watch_idle(None)
        if connection is None:
            try:
                await self._confirm(None)
            finally:
                self._ended = True
        else:
            try:
                if connection.transaction_status() == "failed":
                    raise QueryError(
                        f"{self.title} caught a database error and went on, but PostgreSQL had ended its transaction. "
                        "Let the error through, or put what may fail into `async with ctx.savepoint()`.",
                        sqlstate="25P02",
                    )
                await self._confirm(connection)
                if before is not None:
                    await before(connection)
                self._ended = True
                cancelled = await _commit(connection)
                self.committed = True
            except BaseException:
                await self.rollback()
                raise
            self._connection = None
            await self._db.give_back(connection)
        await self._let_go()
        await self._after(self.root.after_commit)
        if cancelled is not None:
            raise cancelled

    def end_untouched(self) -> bool:
        """End it if nothing was ever done with it; whether that is so. It spares most jobs a commit of nothing."""
        if self._connection is not None or self.holdings or self.root.after_commit or self.root.busy:
            return False
        self._ended = True
        return True

    async def rollback(self) -> None:
        """Take everything back. Safe at any time, and more than once."""
        self._ended = True
        self._watch_idle(None)
        connection, self._connection = self._connection, None
        if connection is not None:
            # give_back rolls back whatever is open, or drops the connection when it cannot
            await asyncio.shield(self._db.give_back(connection))
        await self._let_go()

    async def after_statement(self, frame: Frame) -> None:
        """In plain mode what should follow a commit follows each statement."""
        if not self._transactional:
            callbacks, frame.after_commit = frame.after_commit, []
            await self._after(callbacks)

    def followed(self, frame: Frame) -> None:
        """See `Work`: `commit` asks the root frame for what is to follow."""

    def check_on_commit(self) -> None:
        """See `Work`: this transaction is ours, so its commit is, too."""

    async def _open(self, frame: Frame) -> Connection:
        if self._connection is None:
            self._connection = await self._db.begin()
        await frame.save(self._connection)
        return self._connection

    async def _confirm(self, connection: Connection | None) -> None:
        for held in self.holdings.values():
            await held.confirm(connection)

    async def _let_go(self) -> None:
        while self.holdings:
            await asyncio.shield(self.holdings.popitem()[1].let_go())

    async def _after(self, callbacks: list[AfterCommit]) -> None:
        for callback in callbacks:
            try:
                pending = callback()
                if pending is not None:
                    await pending
            except Exception as error:
                _log.error("on_commit of %s failed", self.title, exc_info=error)

    def _watch_idle(self, connection: Connection | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if connection is not None:
            self._idle = asyncio.get_running_loop().call_later(_IDLE_WARNING_S, self._warn_idle)

    def _warn_idle(self) -> None:
        _log.warning(
            "%s has held its transaction open and idle for %g s: do outside calls before the first statement, in a "
            "step, or with transaction=False",
            self.title,
            _IDLE_WARNING_S,
        )


async def _commit(connection: Connection) -> asyncio.CancelledError | None:
    """Commit; the cancellation that came meanwhile, to be raised once all that follows a commit has been done."""
    try:
        await connection.commit()
    except asyncio.CancelledError as error:
        # it comes after the end of COMMIT, and carries what went wrong with it as its cause
        if error.__cause__ is not None or connection.is_closed or connection.in_transaction:
            raise
        return error
    return None


class Frame:
    """One level of a unit: the handler, or an action called inside it."""

    __slots__ = ("_ended", "_turn", "after_commit", "depth", "parent", "saved", "unit")

    def __init__(self, unit: Work, *, parent: Frame | None) -> None:
        self.unit, self.parent = unit, parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.saved = False
        self.after_commit: list[AfterCommit] = []
        self._turn = asyncio.Lock()
        self._ended = False

    @property
    def savepoint(self) -> str:
        return f"chimpbase_{self.depth}"

    @property
    def busy(self) -> bool:
        """Whether a statement or an inner frame has the turn."""
        return self._turn.locked()

    def lineage(self) -> list[Frame]:
        """From the root to this frame."""
        return [*(self.parent.lineage() if self.parent else ()), self]

    async def save(self, connection: Transactional) -> None:
        """Set the savepoint of every inner frame down to this one that has none."""
        for one in self.lineage():
            if one.parent is not None and not one.saved:
                await connection.savepoint(one.savepoint)
                one.saved = True

    def on_commit(self, callback: AfterCommit) -> None:
        """Call back when the root has committed, if this frame and all around it ended well."""
        self.unit.check_on_commit()
        self.after_commit.append(callback)
        self.unit.followed(self)

    @asynccontextmanager
    async def statement(self) -> AsyncGenerator[Transactional]:
        """Take this frame's turn and run a statement on the unit's connection."""
        self._check_turn()
        async with self._turn, self.unit.connection(self) as connection:
            yield connection
        await self.unit.after_statement(self)

    @asynccontextmanager
    async def nested(self) -> AsyncGenerator[Frame]:
        """An inner frame: left normally its work joins this one's, left by an error it is taken back."""
        self._check_turn()
        async with self._turn:
            inner = Frame(self.unit, parent=self)
            token = _innermost.set(inner)
            try:
                yield inner
                # inside the try: joining fails when a database error was caught in there, and then it is taken back
                await inner._join()
            except BaseException:
                await inner._take_back()
                raise
            finally:
                inner._ended = True
                _innermost.reset(token)

    async def _join(self) -> None:
        if self.saved:
            async with self.unit.connection(self) as connection:
                await connection.release(self.savepoint)
        assert self.parent is not None
        self.parent.after_commit += self.after_commit
        self.unit.followed(self.parent)

    async def _take_back(self) -> None:
        if not self.saved or not self.unit.opened:
            return
        try:
            async with self.unit.connection(self) as connection:
                await connection.rollback_to(self.savepoint)
                await connection.release(self.savepoint)
        except (DatabaseError, UsageError):
            # the transaction is lost with its connection: the error on its way out is the one to see
            await self.unit.rollback()

    def _check_turn(self) -> None:
        if self._ended:
            raise UsageError(
                f"{self.unit.title}: the ctx of an action called from it, or of a savepoint, has ended; nothing can be "
                "done with it any more."
            )
        inner = _innermost.get()
        if inner is not None and inner is not self and inner.unit is self.unit and self in inner.lineage():
            raise UsageError(
                f"{self.unit.title}: an action called from it used the caller's ctx, which waits for that action. Use "
                "the ctx that the action was given."
            )
