"""Pool: at most `size` sessions, lent one at a time.

The driver's own pool is not used: its release is a task or a round trip, and it waits without end for a peer that is
gone.

Invariant: `_size` counts every session that exists or is being opened, so the limit holds; a session is in exactly one
place: free, suspect, or lent. Deliberately absent: cleaning a session up before it comes back (`db` does).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

import asyncpg

from chimpbase._core.errors import DatabaseError, Unreachable
from chimpbase._pg.session import Session
from chimpbase._pg.translate import POOLER_STATES

_log = logging.getLogger("chimpbase.pg")

_PROBE_BUDGET_S: Final = 2.0
_POLITE_CLOSE_S: Final = 0.5


class Pool:
    def __init__(
        self,
        open_session: Callable[[float, int], Awaitable[Session]],
        *,
        size: int,
        lifetime_s: float,
        on_pooler: Callable[[], None],
    ) -> None:
        """`open_session(within_s, generation)` connects; `on_pooler` hears that a transaction pooler is in between."""
        self._open_session = open_session
        self._limit = size
        self._lifetime_s = lifetime_s
        self._on_pooler = on_pooler
        self._free: list[Session] = []  # the last one given back is lent first, so that spare ones grow old and go
        self._suspect: list[Session] = []
        self._waiters: deque[asyncio.Future[Session | None]] = deque()
        self._all: set[Session] = set()
        self._size = 0
        self._generation = 0
        self._closed = False
        self._refusal: Unreachable | None = None  # why the last connection could not be made
        self._emptied = asyncio.Event()

    @property
    def busy(self) -> int:
        """Sessions lent out or being opened."""
        return self._size - len(self._free) - len(self._suspect)

    def take(self) -> Session | None:
        """A free session without waiting, or None."""
        while self._free:
            session = self._free.pop()
            if self._is_good(session):
                return session
            self.drop(session)
        return None

    async def wait(self, timeout_s: float) -> Session:
        """A session, new or given back.

        Raises:
            ConfigError, Unreachable: no connection can be made, or all are busy for `timeout_s`.
        """
        deadline = monotonic() + timeout_s
        while True:
            if self._closed:
                raise Unreachable("The connections were closed; this program is stopping.")
            session = self.take() or await self._probed(deadline)
            left_s = deadline - monotonic()
            if session is None and left_s > 0:
                session = await self._open(left_s) if self._size < self._limit else await self._queue_up(left_s)
            if session is not None:
                return session
            if left_s <= 0 and self._refusal is not None:
                raise Unreachable(str(self._refusal)) from self._refusal
            if left_s <= 0:
                raise Unreachable(
                    f"All {self._limit} connections are busy, for all of the {timeout_s:g} s this call waited. Do slow "
                    "work outside of transactions, or open more connections."
                )

    def put(self, session: Session) -> None:
        """Take a clean session back."""
        if not self._is_good(session):
            self.drop(session)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(session)
                return
        self._free.append(session)

    def drop(self, session: Session) -> None:
        """End a session that is lent or was just taken out of its place; its slot is free for a new one."""
        session.terminate()
        self._all.discard(session)
        self._leave_slot()

    def expire(self) -> None:
        """Replace every session that exists now: the free ones at once, the lent ones when they come back."""
        self._generation += 1
        free, self._free = [*self._free, *self._suspect], []
        self._suspect = []
        for session in free:
            self.drop(session)

    def on_failure(self, session: Session, error: BaseException) -> None:
        """Learn from a failed statement what it says about the other sessions."""
        state = getattr(error, "sqlstate", None)
        if isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError):
            self.expire()
        elif state in POOLER_STATES:
            self._on_pooler()
            self.expire()
        elif state == "25006":
            self.expire()
        elif not (session.unsent or isinstance(error, OSError | asyncpg.PostgresConnectionError)):
            return
        elif session.is_closed and session.generation == self._generation:
            if session.timed_out:
                # Slow server or dead network? Each free session is asked before it is lent again.
                self._suspect += self._free
                self._free = []
            else:
                self.expire()

    async def close(self, *, grace_s: float) -> None:
        """Wait up to `grace_s` for lent sessions, then close all; done at most a second after that."""
        self._closed = True
        while self._waiters:
            self._answer(self._waiters.popleft(), None)
        self._note_idle()
        try:
            async with asyncio.timeout(grace_s):
                await self._emptied.wait()
        except TimeoutError:
            _log.warning("%d connections were busy %g s after the stop began and were closed.", self.busy, grace_s)
        free = [*self._free, *self._suspect]
        self._free, self._suspect = [], []
        try:
            await asyncio.gather(*(_close_politely(session) for session in free))
        finally:
            for session in list(self._all):
                session.terminate()

    def _is_good(self, session: Session) -> bool:
        return (
            session.generation == self._generation
            and not session.is_closed
            and not self._closed
            and monotonic() - session.born < self._lifetime_s
        )

    async def _probed(self, deadline: float) -> Session | None:
        """A suspect session that answers; the first one that does not condemns the others.

        Half of the time is left for connecting anew.
        """
        while self._suspect:
            session = self._suspect.pop()
            if not self._is_good(session):
                self.drop(session)
                continue
            budget_s = session.budget_s
            session.budget_s = min(budget_s, _PROBE_BUDGET_S, max(deadline - monotonic(), 0) / 2)
            try:
                await session.execute("select 1", ())
            except DatabaseError:
                self.drop(session)
                self.expire()
                return None
            except BaseException:
                self.drop(session)
                raise
            session.budget_s = budget_s
            return session
        return None

    async def _open(self, within_s: float) -> Session | None:
        self._size += 1
        generation = self._generation
        try:
            session = await self._open_session(within_s, generation)
        except BaseException as error:
            # Whoever waits for a slot meanwhile, and runs out of time, should hear this reason.
            self._refusal = error if isinstance(error, Unreachable) else None
            self._leave_slot()
            raise
        self._refusal = None
        self._all.add(session)
        if self._closed:
            self.drop(session)
            return None
        return session

    async def _queue_up(self, within_s: float) -> Session | None:
        """A session given back meanwhile, or None to look again: a slot may be free, or the time is over."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Session | None] = loop.create_future()
        self._waiters.append(waiter)
        alarm = loop.call_later(within_s, self._answer, waiter, None)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                raise
            if session := waiter.result():  # it was handed over, and the caller was cancelled before it could look
                self.put(session)
            else:
                self._wake_one()
            raise
        finally:
            alarm.cancel()

    def _leave_slot(self) -> None:
        self._size -= 1
        self._wake_one()
        self._note_idle()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _note_idle(self) -> None:
        if self._closed and not self.busy:
            self._emptied.set()

    @staticmethod
    def _answer(waiter: asyncio.Future[Session | None], session: Session | None) -> None:
        if not waiter.done():
            waiter.set_result(session)


async def _close_politely(session: Session) -> None:
    """Tell the server goodbye, so that it need not find out; a server that does not listen is left."""
    try:
        async with asyncio.timeout(_POLITE_CLOSE_S):
            await session.driver.close(timeout=_POLITE_CLOSE_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        pass  # it is terminated next
    session.terminate()
