"""What happens in an activation, seen from outside: whether anything does, and what somebody wishes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any

from chimpbase._core.values import LoadedRun
from chimpbase._engine.scopes import Scopes

_QUIET_HOPS = 8


class Unwound(BaseException):
    """Raised into code that calls a verb after its activation ended; not an Exception, so that nobody swallows it."""


class Stirred:
    """An event for the one who waits for it. One is made for each activation, and `asyncio.Event` has room for many."""

    __slots__ = ("_is_set", "_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._is_set = loop, False
        self._waiter: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        """Until it is set."""
        while not self._is_set:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None


class Moves:
    """Counts what verbs do, and stirs the driver when the code has ended, was closed, or only waits.

    It has slots, as what is made of it: dicts of one class share their keys only up to thirty attributes.
    """

    __slots__ = ("_active", "_aside", "_loaded_at", "_loop", "_moves", "closed", "failure", "run", "stirred")

    def __init__(self, run: LoadedRun) -> None:
        self.run = run
        self.failure: BaseException | None = None
        self._loop = loop = asyncio.get_running_loop()
        self.stirred = Stirred(loop)
        self.closed = False
        self._active = self._moves = 0
        self._aside: asyncio.Task[None] | None = None
        self._loaded_at = loop.time()

    def clock(self) -> datetime:
        """The database's clock, carried on by the monotonic one since the run was loaded."""
        return self.run.now + timedelta(seconds=self._loop.time() - self._loaded_at)

    def stir(self, _task: object = None) -> None:
        """Wake the driver."""
        self.stirred.set()

    async def never(self) -> str:
        """Wait until this task is cancelled."""
        await self._loop.create_future()
        raise Unwound

    def close(self, failure: BaseException | None = None) -> None:
        """Let no verb act any more; `failure` is why, when it is one."""
        self.closed = True
        self.failure = self.failure or failure
        self.stirred.set()
        if self._aside is not None:
            self._aside.cancel()

    async def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Let the driver do something for the code. It ends with the journal: verbs that lose it never return."""
        if self.closed:
            work.close()
            return
        task = self._aside = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task})
        finally:
            self._aside = None
            task.cancel()
        if not task.cancelled():
            task.result()

    async def stop(self) -> None:
        """Come to rest here, for good."""
        raise Unwound  # `Rests` knows how

    def enter(self) -> None:
        """A verb begins to act."""
        if self.closed:
            raise Unwound
        self._active += 1
        self._moves += 1

    def leave(self) -> None:
        """A verb has acted."""
        self._active -= 1
        self.move()

    @property
    def idle(self) -> bool:
        """Nothing is being done."""
        return not self.closed and self._active == 0

    @property
    def resting(self) -> bool:
        """Nothing is being done and something is being waited for."""
        return False

    def move(self) -> None:
        """Something happened; when all is quiet after it, the driver is told."""
        self._moves += 1
        if self._active == 0 and self.resting:  # else a wait that is begun later moves by itself
            self._loop.call_soon(self._settle, self._moves, _QUIET_HOPS)

    def _settle(self, moves: int, hops: int) -> None:
        # the run's code needs turns of the loop to go on after a verb returns, one for each task in between
        if moves != self._moves or self.stirred.is_set():
            return
        if hops:
            self._loop.call_soon(self._settle, moves, hops - 1)
        elif self.resting:
            self.stirred.set()


class Wishes(Moves):
    """What somebody wishes of the run while its code runs: that it be cancelled, or paused."""

    __slots__ = (
        *("_root", "_shields", "cancel_reason", "cancelling", "delivered", "pause_reason", "pausing", "scopes"),
    )

    def __init__(self, run: LoadedRun) -> None:
        super().__init__(run)
        self.scopes = Scopes(run.started_at)
        self.pausing = run.paused
        self.pause_reason: str | None = None
        self.cancelling, self.delivered = run.cancel_reason is not None, False
        self.cancel_reason = run.cancel_reason
        self._root: asyncio.Task[object] | None = None
        self._shields = 0

    def begin(self) -> None:
        """Make the task that calls this the root scope: the run's own code."""
        self._root = asyncio.current_task()
        self.scopes.begin()

    def cancel(self, reason: str | None = None) -> None:
        """Somebody wants the run cancelled: cancel its code now, or when it leaves its shield."""
        self.cancelling = True
        self.cancel_reason = self.cancel_reason or reason
        self.deliver()

    def halt(self) -> None:
        """Somebody wants the run paused: no verb begins anything new."""
        self.pausing = True

    def enter_shield(self) -> None:
        self._shields += 1

    def leave_shield(self) -> None:
        self._shields -= 1
        if self.cancelling:
            self.deliver()

    def deliver(self) -> None:
        """Cancel the code, once, unless it has shielded itself."""
        if not self.delivered and not self._shields and self._root is not None and not self.closed:
            self.delivered = True
            self._root.cancel()
