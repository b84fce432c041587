"""Leases ready jobs for the free slots of this process, and hands them to the executor.

A lane is one queue in this process: its slots, what runs in them, and whether a claim is worth trying. Lanes are only
asked for when somebody said that there is work (a commit here, a doorbell, the outlook) or when the last claim came
back full, so idle queues cost nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import ClaimedJob, JobId, ProcessId, QueueId
from chimpbase._engine.attempt import Handling
from chimpbase._engine.executor import Executor
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import jobs, processes


_CANCEL_S = 1.5


class Lane:
    """One queue in this process. `hot`: a claim may find something."""

    def __init__(self, handling: Handling) -> None:
        self.handling = handling
        self.hot = True
        # by attempt too: while an attempt that lost its lease unwinds, its job may be claimed again
        self.running: dict[tuple[JobId, int], asyncio.Task[None]] = {}

    @property
    def free(self) -> int:
        """Slots with nothing in them."""
        return self.handling.slots - len(self.running)


class Claimer(Service):
    """Keeps slots busy. Nothing is claimed that has no slot to run in at once.

    A claim whose answer was lost may have leased jobs that nobody here knows of, and this process lives on. So after a
    failed claim, and `doubt_s` later, what it holds is compared with what it runs, and the rest given back.
    """

    def __init__(
        self,
        db: Db,
        executor: Executor,
        handlings: Iterable[Handling],
        *,
        process: Callable[[], ProcessId],
        doubt_s: float,
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db = db
        self._executor = executor
        self._process = process
        self._doubt_s = doubt_s
        self._looks: list[float] = []
        self._lanes = {handling.queue: Lane(handling) for handling in handlings}
        self._open = True
        self._suspect: asyncio.Task[None] | None = None

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
        await self._look_for_strays()
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
                claimed = await jobs.claim(
                    connection, process=process, demands=demands, suspects=self._suspect is None
                )
        except BaseException as error:
            for lane in asked:
                lane.hot = True
            if isinstance(error, DatabaseError):
                self._doubt(first_look_s=0)
            raise
        for job in claimed:
            self._begin(self._lanes[job.queue], job, process)
        found = Counter(job.queue for job in claimed)
        for lane, (queue, demand) in zip(asked, demands, strict=True):
            # a full answer suggests more, also when other slots fell free while it was on its way
            lane.hot = lane.hot or found[queue] >= demand or any(job.suspect for job in claimed)
        return 0 if any(lane.hot and lane.free > 0 for lane in asked) else None

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
            await asyncio.wait(tasks, timeout=_CANCEL_S)

    def _doubt(self, *, first_look_s: float) -> None:
        # and again: the server may have the lost claim still before it, in a socket that it has not read
        now = asyncio.get_running_loop().time()
        self._looks = [now + first_look_s, now + self._doubt_s]

    async def _look_for_strays(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._looks and now >= self._looks[0]:
            process, running = self._process(), [key for lane in self._lanes.values() for key in lane.running]
            async with self._db.transaction() as connection:
                await processes.hold(connection, process=process)
                strays = await jobs.give_back_strays(connection, process=process, running=running)
            self._looks = [look for look in self._looks if look > now]
            if strays:
                self._log.warning("gave back %d jobs that this process held and did not run", len(strays))
                self.ready(self._lanes)
        if self._looks:
            self.wake_in(self._looks[0] - now)

    def _begin(self, lane: Lane, job: ClaimedJob, process: ProcessId) -> None:
        task = asyncio.create_task(
            self._executor.run(lane.handling, job, process=process), name=f"{lane.handling.name}#{job.id}"
        )
        lane.running[job.id, job.attempt] = task
        if job.suspect:
            self._suspect = task
        task.add_done_callback(lambda done: self._ended(lane, job, done))

    def _ended(self, lane: Lane, job: ClaimedJob, task: asyncio.Task[None]) -> None:
        lane.running.pop((job.id, job.attempt), None)
        if task is self._suspect:
            self._suspect = None
            self.ready(self._lanes)  # the next one may come
        elif lane.hot:
            self.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("job %s#%s could not be settled", lane.handling.name, job.id, exc_info=error)
            lane.hot = True
            self._doubt(first_look_s=self._doubt_s)
            self.wake_in(self._doubt_s)
