"""The canceller: ends running attempts that somebody wants ended, and sees that no request is forgotten.

A request is a row, so a notification that is lost costs at most one poll. One whose attempt failed, was put off, given
back or rescued in the meantime holds for the job: whichever process looks first carries it over.
"""

from __future__ import annotations

from collections.abc import Callable

from chimpbase._core.values import ProcessId
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import cancels

_BATCH = 500


class Canceller(Service):
    """Woken by the lookout while there are requests. `on_asked` is given each attempt of this process to end."""

    def __init__(
        self,
        db: Db,
        *,
        process: Callable[[], ProcessId],
        on_asked: Callable[[cancels.Cancelled], None],
        on_passed_on: Callable[[], None],
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._process = db, process
        self._on_asked, self._on_passed_on = on_asked, on_passed_on

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            for asked in await cancels.list_asked(connection, process=self._process()):
                self._on_asked(asked)
            settled = await cancels.settle(connection, most=_BATCH)
        if any(outcome == "requested" for _, outcome in settled):
            self._on_passed_on()
        return 0 if len(settled) == _BATCH else None
