"""The one loop of the program.

A service is a `tick` and a way to be woken. The loop around it rests, wakes, survives errors with a capped and jittered
backoff, and stops cleanly: a tick that has begun is allowed to end. Subclasses write `tick` and nothing about sleeping;
tests call `tick()`.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

from chimpbase._core.errors import DatabaseError

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_QUIET_S = 5.0


class Service(ABC):
    """Something that is done again and again until it is stopped."""

    def __init__(self, *, random: Callable[[], float]) -> None:
        self._random = random
        self._log = logging.getLogger(f"chimpbase.engine.{type(self).__name__.lower()}")
        self._wakeup = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        # its own time beside it: uvloop answers a very short `call_at` with a handle that does not know its time
        self._timer: asyncio.Handle | None = None
        self._rings_at = 0.0
        self._silent_until = 0.0

    @abstractmethod
    async def tick(self) -> float | None:
        """One pass. Seconds to rest after it: 0 when there may be more at once, None to rest until woken."""

    def start(self) -> None:
        """Begin; a second call, or one after `stop`, changes nothing."""
        if self._task is None and not self._stopping:
            self._task = asyncio.create_task(self._loop(), name=type(self).__name__)

    def wake(self) -> None:
        """Tick as soon as possible. A wake during a tick is not lost: another tick follows."""
        self._wakeup.set()

    def wake_in(self, seconds: float) -> None:
        """Tick after `seconds` at the latest; a sooner appointment stands."""
        if seconds <= 0:
            return self.wake()
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if loop.time() < self._rings_at <= when:
            return None
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_at = loop.call_at(when, self._ring), when
        return None

    def _ring(self) -> None:
        # forgotten first: a timer may ring a moment before its time, and must not stand for an appointment any more
        self._rings_at = 0.0
        self.wake()

    async def stop(self, *, patience_s: float = 2.0) -> None:
        """Let the tick that runs end, for `patience_s` at most, then cancel it. Idempotent."""
        self._stopping = True
        self._wakeup.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None:
            return
        _, late = await asyncio.wait({self._task}, timeout=patience_s)
        for task in late:
            task.cancel()
            await asyncio.wait({task}, timeout=patience_s)

    async def _loop(self) -> None:
        failures = 0
        while not self._stopping:
            # cleared before the tick: what happens during it must lead to another one
            self._wakeup.clear()
            try:
                rest_s = await self.tick()
                failures = 0
            except Exception as error:
                failures += 1
                rest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures, 10)) * (0.5 + self._random() / 2)
                self._complain(error)
                self._wakeup.clear()
            if rest_s != 0 and not self._stopping:
                await self._rest(rest_s)

    async def _rest(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()
        except TimeoutError:
            return

    def _complain(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._silent_until:
            return
        self._silent_until = now + _QUIET_S
        if isinstance(error, DatabaseError):
            self._log.warning("%s: %s; trying again", type(error).__name__, error)
        else:
            self._log.error("unexpected error; trying again", exc_info=error)
