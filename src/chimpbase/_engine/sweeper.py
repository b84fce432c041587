"""The sweeper: frees the space of expired keys.

Nothing depends on it, since readers judge expiry themselves. It walks the table page by page, a bounded piece at a
time, and passes over what somebody has locked: no pair needs an index on its expiry, and nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import kv

#: 4 MB of pages at a time; read from the disk that is some 10 ms.
_PAGES = 512
#: A walk rests so many times as long as it took, so that sweeping is never more than a small part of the load.
_RESTS = 20


class Sweeper(Service):
    """Walks the pairs again and again, at least `every_s` apart."""

    def __init__(self, db: Db, *, every_s: float, clock: Callable[[], float], random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._every_s, self._clock = db, every_s, clock
        self._page = 0
        self._worked_s = 0.0

    async def tick(self) -> float | None:
        began = self._clock()
        async with self._db.acquire() as connection:
            pages = await kv.count_blocks(connection)
            await kv.sweep(connection, first=self._page, last=self._page + _PAGES)
        self._page += _PAGES
        self._worked_s += self._clock() - began
        if self._page < pages:
            return 0.05
        rest_s = max(self._every_s, self._worked_s * _RESTS)
        self._page, self._worked_s = 0, 0.0
        return rest_s * (0.75 + self._random() / 2)
