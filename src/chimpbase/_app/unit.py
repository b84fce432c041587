"""The unit of work: one transaction, opened the first time something touches the database.

It is the outermost of a stack of frames (`frame`). Invariant: the end of the job that a unit was made for is written in
its transaction or not at all, and nothing follows a commit that may not have been.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from chimpbase._app.frame import AfterCommit, Frame, Held, Root
from chimpbase._app.luggage import Luggage
from chimpbase._core.errors import QueryError, UsageError
from chimpbase._core.values import CarriedJob
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db, Transactional
from chimpbase._store import carried

__all__ = ["AfterCommit", "Frame", "Held", "Unit"]

_log = logging.getLogger("chimpbase.transaction")
_IDLE_WARNING_S = 5.0
_EMPTY = Luggage()


class Unit(Root):
    """One transaction of one handler, called `title` in messages; without `transaction` each statement commits.

    One that `carries` can leave what it has enqueued to the end of its job, as long as no transaction is open.
    """

    __slots__ = (
        "_alarm",
        "_carries",
        "_connection",
        "_db",
        "_luggage",
        "_resting_since",
        "_title",
        "_transactional",
        "committed",
    )

    def __init__(self, db: Db, *, title: str, transaction: bool = True, carries: bool = False) -> None:
        # as the frames around it do, but in one place: a unit is made for each job and for each step
        self.busy = self._ended = self.committed = False
        self._waiting = self._holdings = None
        self.after_commit: list[AfterCommit] = []
        self._db, self._title, self._transactional = db, title, transaction
        self._connection: Connection | None = None
        self._carries = carries and transaction
        self._luggage: Luggage | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._resting_since = 0.0  # on the monotonic clock; 0 while a statement runs

    @property
    def title(self) -> str:
        return self._title

    @property
    def transactional(self) -> bool:
        return self._transactional

    @property
    def opened(self) -> bool:
        return self._connection is not None or self._luggage is not None

    def can_carry(self, frame: Frame, payloads: Sequence[str]) -> bool:
        """See `Root`: only what the handler itself enqueues before its transaction is open, and never very much."""
        if not self._carries or self._connection is not None or frame is not self or self.busy or self._ended:
            return False
        return (self._luggage or _EMPTY).has_room(payloads)

    def carry(self, jobs: Sequence[CarriedJob], after_commit: Callable[[], None]) -> None:
        """See `Root`."""
        if self._luggage is None:
            self._luggage = Luggage()
        self._luggage.put(jobs, after_commit)

    async def enter(self, frame: Frame) -> Connection:
        if self._ended:
            raise UsageError(f"The ctx of {self._title} has ended; nothing can be done with it any more.")
        if not self._transactional:
            return await self._db.checkout()
        self._resting_since = 0.0
        connection = self._connection
        if connection is None:
            connection = self._connection = await self._open()
        await frame.save(connection)
        return connection

    async def leave(self, connection: Transactional, *, failed: bool) -> None:
        if not isinstance(connection, Connection):
            return
        if not self._transactional:
            await self._db.give_back(connection)
            return
        if self._connection is connection:
            self._rest()
        if not failed and connection.transaction_status() == "idle":
            self._ended = True
            raise UsageError(
                f"{self._title} ended its transaction with a statement of its own. The transaction belongs to ctx: "
                "return to commit it, raise to roll it back."
            )

    async def commit(
        self, before: Callable[[Connection], Awaitable[None]] | None = None, *, last: str | None = None
    ) -> None:
        """Commit, with `before` as the last thing inside the transaction; nothing to do when none was opened.

        `last` is a statement that goes the same way as the COMMIT, right before it: when it fails nothing is committed.

        Raises:
            OutcomeUnknown: the connection died during COMMIT.
            QueryError: an earlier statement failed and its error was caught; nothing was committed.
            UsageError: something that the handler began still runs; nothing was committed.
        """
        if self._luggage is not None and not self.busy:
            async with self.statement():
                pass  # to enter is to store what it has with it
        if self._transactional and self.busy:
            await self.rollback()
            raise UsageError(
                f"{self._title} returned while an action or statement that it began still runs, of which a commit "
                "would keep half. Await it first."
            )
        connection, cancelled = self._connection, None
        self._stop_watching()
        if connection is None:
            try:
                await self._confirm(None)
            finally:
                self._ended = True
        else:
            try:
                if connection.transaction_status() == "failed":
                    raise QueryError(
                        f"{self._title} caught a database error and went on, but PostgreSQL had ended its transaction. "
                        "Let the error through, or put what may fail into `async with ctx.savepoint()`.",
                        sqlstate="25P02",
                    )
                await self._confirm(connection)
                if before is not None:
                    await before(connection)
                self._ended = True
                cancelled = await _commit(connection, last)
                self.committed = True
            except BaseException:
                await self.rollback()
                raise
            self._connection = None
            await self._db.give_back(connection)
        if self._holdings:
            await self._let_go()
        if self.after_commit:
            await self._after(self.after_commit)
        if cancelled is not None:
            raise cancelled

    def end_untouched(self) -> bool:
        """End it if nothing was ever done with it; whether that is so. It spares most jobs a commit of nothing."""
        if self.opened or self._holdings or self.after_commit or self.busy:
            return False
        self._ended = True
        return True

    def end_carrying(self) -> Luggage | None:
        """End it if nothing was done with it but to enqueue; what is to be stored with the end of its job then."""
        luggage = self._luggage
        if luggage is None or self._holdings or self.after_commit or self.busy:
            return None
        self._ended, self._luggage = True, None
        return luggage

    async def rollback(self) -> None:
        """Take everything back. Safe at any time, and more than once."""
        self._ended, self._luggage = True, None
        self._stop_watching()
        connection, self._connection = self._connection, None
        if connection is not None:
            # give_back rolls back whatever is open, or drops the connection when it cannot
            await asyncio.shield(self._db.give_back(connection))
        if self._holdings:
            await self._let_go()

    async def after_statement(self, frame: Frame) -> None:
        """In plain mode what should follow a commit follows each statement."""
        if not self._transactional and frame.after_commit:
            callbacks, frame.after_commit = frame.after_commit, []
            await self._after(callbacks)

    def followed(self, frame: Frame) -> None:
        """See `Root`: `commit` asks the root frame for what is to follow."""

    def check_on_commit(self) -> None:
        """See `Root`: this transaction is ours, so its commit is, too."""

    async def _open(self) -> Connection:
        """Begin, and store what was to be carried. When that fails nothing was begun, and it is still with us."""
        connection = await self._db.begin()
        try:
            if self._luggage is not None:
                await carried.enqueue(connection, self._luggage.jobs, now_s=monotonic())
            if self._ended:  # it was given up meanwhile
                raise UsageError(f"The ctx of {self._title} has ended; nothing can be done with it any more.")
        except BaseException:
            await asyncio.shield(self._db.give_back(connection))
            raise
        luggage, self._luggage = self._luggage, None
        if luggage is not None:
            self.after_commit += luggage.after_commit
        return connection

    async def _confirm(self, connection: Connection | None) -> None:
        for held in (self._holdings or {}).values():
            await held.confirm(connection)

    async def _let_go(self) -> None:
        while self._holdings:
            await asyncio.shield(self._holdings.popitem()[1].let_go())

    async def _after(self, callbacks: list[AfterCommit]) -> None:
        for callback in callbacks:
            try:
                pending = callback()
                if pending is not None:
                    await pending
            except Exception as error:
                _log.error("on_commit of %s failed", self._title, exc_info=error)

    def _rest(self) -> None:
        """A statement has ended. One timer is armed for the transaction, not one for each of its statements."""
        self._resting_since = monotonic()
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(_IDLE_WARNING_S, self._look)

    def _stop_watching(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _look(self) -> None:
        self._alarm = None
        if not self._resting_since:
            return  # a statement runs; the timer is armed again when it ends
        left_s = self._resting_since + _IDLE_WARNING_S - monotonic()
        if left_s > 0:
            self._alarm = asyncio.get_running_loop().call_later(left_s, self._look)
            return
        _log.warning(
            "%s has held its transaction open and idle for %g s: do outside calls before the first statement, in a "
            "step, or with transaction=False",
            self._title,
            _IDLE_WARNING_S,
        )


async def _commit(connection: Connection, last: str | None) -> asyncio.CancelledError | None:
    """Commit; the cancellation that came meanwhile, to be raised once all that follows a commit has been done."""
    try:
        await connection.commit(last)
    except asyncio.CancelledError as error:
        # it comes after the end of COMMIT, and carries what went wrong with it as its cause
        if error.__cause__ is not None or connection.is_closed or connection.in_transaction:
            raise
        return error
    return None
