"""Leases ready jobs for the lanes of this process.

Lanes are only asked for when somebody said that there is work (a commit here, a doorbell, the outlook) or when the last
claim came back full, so idle queues cost nothing. One claim is in flight at a time and serves all lanes that want jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

from chimpbase._core.values import ClaimedJob, ProcessId, QueueId
from chimpbase._engine.attempt import Handling
from chimpbase._engine.executor import Executor
from chimpbase._engine.finisher import Finisher
from chimpbase._engine.lane import Lane
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import jobs

_MOST_PENDING = 10_000


class Claimer(Service):
    """Keeps slots busy."""

    def __init__(
        self,
        db: Db,
        executor: Executor,
        finisher: Finisher,
        handlings: Iterable[Handling],
        *,
        process: Callable[[], ProcessId],
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._finisher, self._process = db, finisher, process
        self._lanes = {one.queue: Lane(one, executor, on_hungry=self.wake) for one in handlings}
        self._open = True

    @property
    def queues(self) -> Sequence[QueueId]:
        """The queues that this process works."""
        return list(self._lanes)

    @property
    def running(self) -> int:
        """Attempts in progress."""
        return sum(lane.running for lane in self._lanes.values())

    def with_room(self) -> set[QueueId]:
        """The queues that have a free slot here."""
        return {queue for queue, lane in self._lanes.items() if lane.free > 0}

    def ready(self, queues: Iterable[QueueId], *, sweep: bool = False) -> None:
        """Somebody says that these queues may have ready jobs; those that nobody works here are ignored.

        With `sweep` they may stand anywhere in the queue, not only at its end.
        """
        for queue in queues:
            if lane := self._lanes.get(queue):
                lane.hot = True
                if sweep:
                    lane.sweep()
                self.wake()

    async def tick(self) -> float | None:
        if not self._open or self._finisher.pending > _MOST_PENDING:
            return None if not self._open else 0.01
        asked = [(lane, demand) for lane in self._lanes.values() if lane.hot and (demand := lane.demand()) is not None]
        if not asked:
            return None
        for lane, _ in asked:
            # before the claim: a job that becomes ready during it sets this again
            lane.hot = False
        process, began_s = self._process(), perf_counter()
        try:
            async with self._db.acquire() as connection:
                claimed = await jobs.claim(connection, process=process, demands=[demand for _, demand in asked])
        except BaseException:
            for lane, _ in asked:
                lane.hot = True
            raise
        seconds = perf_counter() - began_s
        sorted_out: dict[QueueId, list[ClaimedJob]] = {demand.queue: [] for _, demand in asked}
        # the claim answers in no order; jobs start in that of their queue
        for job in sorted(claimed, key=lambda job: (job.priority, job.sort)):
            sorted_out[job.queue].append(job)
        if not self._open:
            for job in claimed:
                self._finisher.give_back(job)
            return None
        for lane, demand in asked:
            lane.take(sorted_out[demand.queue], process=process, asked=demand, seconds=seconds)
        return 0 if any(lane.hot and lane.demand() for lane in self._lanes.values()) else None

    def close(self) -> None:
        """Claim no more, and give back what waits for a slot."""
        self._open = False
        for lane in self._lanes.values():
            for job in lane.empty():
                self._finisher.give_back(job)

    async def drain(self, *, grace_s: float) -> None:
        """After `close`: wait for running attempts, then cancel those still running, which gives their jobs back."""
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.gather(*(lane.quiet() for lane in self._lanes.values()))
        except TimeoutError:
            self._log.info("%d attempts run longer than the grace; they are given back", self.running)
        await self._cancel()

    async def abandon(self) -> None:
        """Cancel everything that runs here: its lease is gone."""
        for lane in self._lanes.values():
            lane.empty()
        await self._cancel()

    async def _cancel(self) -> None:
        slots = [slot for lane in self._lanes.values() for slot in lane.cancel()]
        if slots:
            await asyncio.wait(slots, timeout=5)
