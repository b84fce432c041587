"""Leases ready jobs for the free slots of this process, and hands them to the executor.

A lane is one queue in this process: its slots, what runs in them, and whether a claim is worth trying. Lanes are only
asked for when somebody said that there is work (a commit here, a doorbell, the outlook) or when the last claim came
back full, so idle queues cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from chimpbase._core.values import ClaimedJob, JobId, ProcessId, QueueId
from chimpbase._engine.attempt import Handling
from chimpbase._engine.executor import Executor
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import jobs


class Lane:
    """One queue in this process. `hot`: a claim may find something."""

    def __init__(self, handling: Handling) -> None:
        self.handling = handling
        self.hot = True
        self.running: dict[JobId, asyncio.Task[None]] = {}

    @property
    def free(self) -> int:
        """Slots with nothing in them."""
        return self.handling.slots - len(self.running)


class Claimer(Service):
    """Keeps slots busy. Nothing is claimed that has no slot to run in at once."""

    def __init__(
        self,
        db: Db,
        executor: Executor,
        handlings: Iterable[Handling],
        *,
        process: Callable[[], ProcessId],
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db = db
        self._executor = executor
        self._process = process
        self._lanes = {handling.queue: Lane(handling) for handling in handlings}
        self._open = True

    @property
    def queues(self) -> Sequence[QueueId]:
        """The queues that this process works."""
        return list(self._lanes)

    @property
    def running(self) -> int:
        """Attempts in progress."""
        return sum(len(lane.running) for lane in self._lanes.values())

    def with_room(self) -> set[QueueId]:
        """The queues that have a free slot here."""
        return {queue for queue, lane in self._lanes.items() if lane.free > 0}

    def ready(self, queues: Iterable[QueueId]) -> None:
        """Somebody says that these queues may have ready jobs; those that nobody works here are ignored."""
        for queue in queues:
            if lane := self._lanes.get(queue):
                lane.hot = True
                if lane.free:
                    self.wake()

    async def tick(self) -> float | None:
        if not self._open:
            return None
        asked = [lane for lane in self._lanes.values() if lane.hot and lane.free > 0]
        if not asked:
            return None
        demands = [(lane.handling.queue, lane.free) for lane in asked]
        for lane in asked:
            # before the claim: a job that becomes ready during it sets this again
            lane.hot = False
        process = self._process()
        try:
            async with self._db.acquire() as connection:
                claimed = await jobs.claim(connection, process=process, demands=demands)
        except BaseException:
            for lane in asked:
                lane.hot = True
            raise
        for job in claimed:
            self._begin(self._lanes[job.queue], job, process)
        for lane in asked:
            # a full answer suggests more; the next free slot will ask
            lane.hot = lane.hot or lane.free <= 0
        return None

    def close(self) -> None:
        """Claim no more."""
        self._open = False

    async def drain(self, *, grace_s: float) -> None:
        """After `close`: wait for running attempts, then cancel those still running, which gives their jobs back."""
        tasks = {task for lane in self._lanes.values() for task in lane.running.values()}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        await self._cancel(late)

    async def abandon(self) -> None:
        """Cancel everything that runs here: its lease is gone."""
        await self._cancel({task for lane in self._lanes.values() for task in lane.running.values()})

    async def _cancel(self, tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _begin(self, lane: Lane, job: ClaimedJob, process: ProcessId) -> None:
        task = asyncio.create_task(
            self._executor.run(lane.handling, job, process=process), name=f"{lane.handling.name}#{job.id}"
        )
        lane.running[job.id] = task
        task.add_done_callback(lambda done: self._ended(lane, job, done))

    def _ended(self, lane: Lane, job: ClaimedJob, task: asyncio.Task[None]) -> None:
        lane.running.pop(job.id, None)
        if lane.hot:
            self.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("job %s#%s could not be settled", lane.handling.name, job.id, exc_info=error)
            lane.hot = True
