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

    async def end(self, run: str) -> RunEnd | None:
        """How a run ended, once it has; None when there is no such run. Waits for as long as it takes."""
        loop, look_s = asyncio.get_running_loop(), _FIRST_LOOK_S
        here = self._is_here(run)
        while True:
            told = loop.create_future()
            self._waiting.setdefault(run, []).append(told)
            try:
                if not here:
                    found = await self._looks.submit(run)
                    if found is None or found.over:
                        return found
                timer = loop.call_later(_LONGEST_LOOK_S if here else look_s, _tell, told, None)
                try:
                    if (end := await told) is not None:
                        return end
                finally:
                    timer.cancel()
            finally:
                self._forget(run, told)
            here, look_s = False, min(_LONGEST_LOOK_S, look_s * 2)

    def ended(self, run: str, end: RunEnd | None) -> None:
        """A run has ended here, and that is committed; None where only the database knows how."""
        for told in self._waiting.get(run, ()):
            _tell(told, end)

    def _forget(self, run: str, told: asyncio.Future[RunEnd | None]) -> None:
        waiting = self._waiting[run]
        waiting.remove(told)
        if not waiting:
            del self._waiting[run]

    async def _look(self, runs: list[str]) -> Sequence[RunEnd | None]:
        async with self._db.acquire() as connection:
            found = await run_queries.list_ends(connection, ids=list(dict.fromkeys(runs)))
        return [found.get(run) for run in runs]


def _tell(told: asyncio.Future[RunEnd | None], end: RunEnd | None) -> None:
    if not told.done():
        told.set_result(end)
