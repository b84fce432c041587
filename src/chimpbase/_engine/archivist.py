"""Forgets workflow runs that ended long ago, with their steps, signals and replies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import runs

_WINDOW = 1000


class Archivist(Service):
    """Walks over the runs in the order in which they were started, a window at a time, and begins again when done.

    There is no index by when a run ended: that would cost every run an index entry at its end.
    """

    def __init__(self, db: Db, *, age: timedelta, every_s: float, random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._age, self._every_s = db, age, every_s
        self._after = 0

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            last = await runs.prune(connection, age=self._age, after=self._after, window=_WINDOW)
        self._after = last or 0
        return 0 if last is not None else self._every_s
