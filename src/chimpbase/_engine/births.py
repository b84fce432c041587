"""Jobs that are stored by the process that will run them, and so need no claim.

Only where a slot is free at this moment and nobody waits before them. Invariant: a slot that was promised is counted as
taken until its job arrives or is known not to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chimpbase._core.values import ClaimedJob, JobId, NewJob, QueueId
from chimpbase._engine.claimer import Claimer
from chimpbase._engine.lane import Lane
from chimpbase._pg.db import Db
from chimpbase._store import births


class Births:
    """Stores jobs for the free slots of this process."""

    def __init__(self, claimer: Claimer) -> None:
        self._claimer, self._claims = claimer, claimer.claims

    async def enqueue(self, db: Db, new: Sequence[NewJob]) -> tuple[list[JobId], set[QueueId]] | None:
        """Store jobs and run them here: their ids, and the queues of those that somebody has to claim after all.

        None, with nothing done, when some would have to wait: they are to be enqueued like any others.
        """
        lanes = self._lanes(new)
        if lanes is None:
            return None
        for lane, count in lanes.items():
            lane.promised += count
        process = self._claims.process()
        try:
            async with self._claims.turn():
                with self._claims.asking():
                    async with db.acquire() as connection:
                        stored = await births.enqueue(connection, new, process=process)
                born = [
                    ClaimedJob(
                        id,
                        job.queue,
                        job.priority,
                        id,
                        1,
                        0,
                        False,
                        job.max_attempts,
                        enqueued_at,
                        job.payload,
                        job.headers,
                        job.key,
                        job.terms,
                    )
                    for job, (id, leased, enqueued_at) in zip(new, stored, strict=True)
                    if leased
                ]
                kept = self._claims.process() == process
                if kept:  # else a lease was lost meanwhile, and somebody takes them from the dead
                    self._claims.took(born)
        finally:
            for lane, count in lanes.items():
                lane.promised -= count
        if kept and self._claims.open:
            for lane in lanes:
                lane.adopt([job for job in born if job.queue == lane.handling.queue], process=process)
        elif kept:
            self._claims.give_back(born)
        leased = {job.id for job in born}
        rest = {job.queue for job, (id, _, _) in zip(new, stored, strict=True) if id not in leased}
        return [id for id, _, _ in stored], rest

    def _lanes(self, new: Sequence[NewJob]) -> dict[Lane, int] | None:
        """The lanes that have a free slot for each of these jobs, and how many each is to get."""
        if not self._claims.has_turn or not self._claims.open or not all(job.plain for job in new):
            return None
        lanes: dict[Lane, int] = {}
        for queue, count in Counter(job.queue for job in new).items():
            lane = self._claimer.lane(queue)
            # a hot lane may have jobs before it, and they go first
            if lane is None or lane.gated or lane.hot or lane.free < count:
                return None
            lanes[lane] = count
        return lanes
