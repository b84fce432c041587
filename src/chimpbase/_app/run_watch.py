"""Who waits, in this process, for runs to end.

A run that is active here tells its end itself, once that is committed: nobody asks the database for it. Of all others,
and of those again after a while, what they have come to is asked for in one statement for all who wait. So a wake that
is missed costs half a second and loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from chimpbase._core.values import RunEnd
from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.db import Db
from chimpbase._store import run_queries

_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.01, 0.5
_BATCH = 1000


class RunWatch:
    """`is_here` tells whether the run of an id is active in this process, or about to be."""

    def __init__(self, db: Db, *, is_here: Callable[[str], bool]) -> None:
        self._db, self._is_here = db, is_here
        self._waiting: dict[str, list[asyncio.Future[RunEnd | None]]] = {}
        self._looks: Coalescer[str, RunEnd | None] = Coalescer(self._look, max_batch=_BATCH)

    async def end(self, run: str, limit_s: float | None) -> RunEnd | None:
        """How a run ended, once it has; None when there is no such run.

        Raises:
            TimeoutError: that took longer than the limit.
        """
        if self._is_here(run):
            # nearly all end before that, and need one timer and not two
            wait_s = _LONGEST_LOOK_S if limit_s is None else min(limit_s, _LONGEST_LOOK_S)
            loop = asyncio.get_running_loop()
            told = self._listen(run, loop)
            try:
                if (end := await _within(told, wait_s, loop)) is not None:
                    return end
            finally:
                self._forget(run, told)
            if limit_s is not None:
                limit_s -= wait_s
        async with asyncio.timeout(limit_s):
            return await self._look_until_over(run)

    def ended(self, run: str, end: RunEnd | None) -> None:
        """A run has ended here, and that is committed; None where only the database knows how."""
        for told in self._waiting.get(run, ()):
            _tell(told, end)

    async def _look_until_over(self, run: str) -> RunEnd | None:
        loop, look_s = asyncio.get_running_loop(), _FIRST_LOOK_S
        while True:
            told = self._listen(run, loop)
            try:
                found = await self._looks.submit(run)
                if found is None or found.over:
                    return found
                if (end := await _within(told, look_s, loop)) is not None:
                    return end
            finally:
                self._forget(run, told)
            look_s = min(_LONGEST_LOOK_S, look_s * 2)

    def _listen(self, run: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[RunEnd | None]:
        told: asyncio.Future[RunEnd | None] = loop.create_future()
        self._waiting.setdefault(run, []).append(told)
        return told

    def _forget(self, run: str, told: asyncio.Future[RunEnd | None]) -> None:
        waiting = self._waiting[run]
        waiting.remove(told)
        if not waiting:
            del self._waiting[run]

    async def _look(self, runs: list[str]) -> Sequence[RunEnd | None]:
        async with self._db.acquire() as connection:
            found = await run_queries.list_ends(connection, ids=list(dict.fromkeys(runs)))
        return [found.get(run) for run in runs]


async def _within(told: asyncio.Future[RunEnd | None], wait_s: float, loop: asyncio.AbstractEventLoop) -> RunEnd | None:
    timer = loop.call_later(wait_s, _tell, told, None)
    try:
        return await told
    finally:
        timer.cancel()


def _tell(told: asyncio.Future[RunEnd | None], end: RunEnd | None) -> None:
    if not told.done():
        told.set_result(end)
