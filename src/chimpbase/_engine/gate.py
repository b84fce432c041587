"""The gate of one queue with limits, in this process: asks for a job for each free slot, and runs what may pass.

Admissions of a queue take turns in the database, fleet-wide. Each gate has a loop of its own, so that waiting for one's
turn delays no other queue.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from chimpbase._engine.claims import Claims
from chimpbase._engine.finisher import Finisher
from chimpbase._engine.lane import Lane
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import gates
from chimpbase._store.jobs import Demand

_MOST_PENDING = 10_000


class Gate(Service):
    """Keeps the slots of a lane busy as far as the limits of its queue allow.

    It asks when somebody says that there is work, when one of its jobs has ended, and when a bucket refills. `on_freed`
    hears of each end too: if there is no free slot here, other processes should know.
    """

    def __init__(
        self,
        db: Db,
        lane: Lane,
        claims: Claims,
        finisher: Finisher,
        *,
        on_freed: Callable[[], None],
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._lane, self._claims, self._finisher = db, lane, claims, finisher
        self._on_freed = on_freed
        self._opens_at: float | None = None

    async def tick(self) -> float | None:
        lane, claims = self._lane, self._claims
        if self._opens_at is not None and perf_counter() >= self._opens_at:
            self._opens_at, lane.hot = None, True
        if not claims.open or not lane.hot or (demand := lane.demand()) is None:
            return None
        if self._finisher.pending > _MOST_PENDING:
            return 0.01
        # before the admission: a job that arrives during it sets this again
        lane.hot = False
        async with claims.turn():
            more, opens_s = await self._admit(demand)
        lane.hot = lane.hot or more
        if opens_s is not None:
            self._opens_at = perf_counter() + opens_s
            self.wake_in(opens_s)
        return 0 if lane.hot and lane.demand() is not None else None

    async def _admit(self, demand: Demand) -> tuple[bool, float | None]:
        lane, claims = self._lane, self._claims
        process, began_s = claims.process(), perf_counter()
        try:
            with claims.asking() as suspects:
                async with self._db.acquire() as connection:
                    admitted = await gates.admit(
                        connection, queue=demand.queue, process=process, demand=demand.jobs, suspects=suspects
                    )
        except BaseException:
            lane.hot = True
            raise
        claims.took(admitted.jobs, on_freed=self._on_freed)
        if claims.process() != process:
            claims.forget(admitted.jobs)
        elif not claims.open:
            claims.give_back(admitted.jobs)
        else:
            lane.take(admitted.jobs, process=process, asked=demand, seconds=perf_counter() - began_s)
        return admitted.more, admitted.opens_s
