"""The striker: moves what strikes hold out of the way of claims, and back what none holds any more.

Claims do not need it to be right: they pass by what is struck from the moment the strike commits. It keeps them fast.
"""

from __future__ import annotations

from collections.abc import Callable

from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import strikes

_SPAN = 5000


class Striker(Service):
    """Woken by the lookout while there are strikes or jobs that one holds; it goes through the ready jobs by id."""

    def __init__(self, db: Db, *, on_freed: Callable[[float], None], random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._on_freed = db, on_freed
        self._after = 0

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            swept = await strikes.sweep(connection, span=_SPAN, after=self._after)
        self._after = swept.next or 0
        if swept.moved:
            self._on_freed(0.0)
        return 0 if self._after or swept.moved else None
