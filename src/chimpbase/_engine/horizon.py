"""The horizon: warns of a transaction that has been open for long.

While it is, nothing that was deleted since can be removed: every queue fills with dead rows, however fast its jobs are
done. Nobody here can end it, but somebody should know whose it is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import explain


class Horizon(Service):
    """Looks every `every_s` for a transaction older than `age`, and names it, once each time it looks."""

    def __init__(self, db: Db, *, age: timedelta, every_s: float, random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._age, self._every_s = db, age, every_s

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            oldest = await explain.find_oldest_transaction(connection, age=self._age)
        if oldest is not None:
            self._log.warning(
                "a transaction has been open for %.0f s and keeps dead rows of every queue from being removed: pid %d, "
                "application %r, user %r, %s. End it, or with pg_terminate_backend(%d)",
                oldest.age_s,
                oldest.pid,
                oldest.application,
                oldest.user,
                oldest.state,
                oldest.pid,
            )
        return self._every_s * (0.9 + self._random() / 5)
