"""Keeps the table of events small: those beyond their retention go, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import events

_BATCH = 1000


class EventKeeper(Service):
    """Prunes in statements of its own, so that publishers never wait for it."""

    def __init__(self, db: Db, *, age: timedelta, every_s: float, random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._age, self._every_s = db, age, every_s

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            pruned = await events.prune(connection, age=self._age, max_events=_BATCH)
        return 0 if pruned == _BATCH else self._every_s
