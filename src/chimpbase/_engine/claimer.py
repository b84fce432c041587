"""Leases ready jobs for the lanes of this process.

Lanes are only asked for when somebody said that there is work (a commit here, a doorbell, the outlook) or when the last
claim came back full, so idle queues cost nothing. One claim is in flight at a time and serves all lanes that want jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import ClaimedJob, JobId, ProcessId, QueueId
from chimpbase._engine.attempt import Handling
from chimpbase._engine.executor import Executor
from chimpbase._engine.finisher import Finisher
from chimpbase._engine.lane import Lane
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import cancels, jobs, processes

_MOST_PENDING = 10_000
#: What handlers get to end when they are cancelled; one that takes longer is left behind, fenced out.
_UNWIND_S = 2.0


class Claimer(Service):
    """Keeps slots busy.

    A claim whose answer was lost may have leased jobs that nobody here knows of, and this process lives on. So after a
    failed claim, and `doubt_s` later, what the process holds is compared with `holdings` (what it runs, will run, or is
    about to settle), and the rest given back.
    """

    def __init__(
        self,
        db: Db,
        executor: Executor,
        finisher: Finisher,
        handlings: Iterable[Handling],
        *,
        process: Callable[[], ProcessId],
        holdings: set[tuple[JobId, int]],
        doubt_s: float,
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._finisher, self._process = db, finisher, process
        self._holdings, self._doubt_s = holdings, doubt_s
        self._looks: list[float] = []
        self._suspect = False
        self._open = True
        self._lanes = {
            one.queue: Lane(one, executor, on_hungry=self.wake, on_suspect_ended=self._let_next_suspect)
            for one in handlings
        }

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

    def cancel(self, asked: cancels.Cancelled) -> None:
        """End an attempt as cancelled, if it runs or waits for a slot here."""
        for lane in self._lanes.values():
            if (waiting := lane.cancel_job(asked.id, asked.attempt, reason=asked.reason)) is not None:
                self._finisher.cancel(asked)
                if waiting.suspect:
                    self._suspect = False

    def hold_back(self, queues: Iterable[QueueId]) -> None:
        """These queues are paused: give back what waits for a slot. What runs goes on."""
        for queue in queues:
            if lane := self._lanes.get(queue):
                self._give_back(lane.empty())

    async def tick(self) -> float | None:
        if not self._open:
            return None
        await self._look_for_strays()
        for lane in self._lanes.values():
            self._give_back(lane.stale())
            if lane.sweep_in() == 0:
                lane.hot = True
        if self._finisher.pending > _MOST_PENDING:
            return 0.01
        asked = [(lane, demand) for lane in self._lanes.values() if lane.hot and (demand := lane.demand()) is not None]
        if not asked:
            return None
        for lane, _ in asked:
            # before the claim: a job that becomes ready during it sets this again
            lane.hot = False
        process, began_s = self._process(), perf_counter()
        try:
            async with self._db.acquire() as connection:
                claimed = await jobs.claim(
                    connection,
                    process=process,
                    demands=[demand for _, demand in asked],
                    suspects=not self._suspect,
                )
        except BaseException as error:
            for lane, _ in asked:
                lane.hot = True
            if isinstance(error, DatabaseError):
                # and again later: the server may have the lost claim still before it, in a socket it has not read
                now = asyncio.get_running_loop().time()
                self._looks = [now, now + self._doubt_s]
            raise
        self._holdings.update((job.id, job.attempt) for job in claimed)
        self._suspect = self._suspect or any(job.suspect for job in claimed)
        seconds = perf_counter() - began_s
        sorted_out: dict[QueueId, list[ClaimedJob]] = {demand.queue: [] for _, demand in asked}
        # the claim answers in no order; jobs start in that of their queue
        for job in sorted(claimed, key=lambda job: (job.priority, job.sort)):
            sorted_out[job.queue].append(job)
        if not self._open:
            self._give_back(claimed)
            return None
        for lane, demand in asked:
            lane.take(sorted_out[demand.queue], process=process, asked=demand, seconds=seconds)
        if any(lane.held > lane.running for lane in self._lanes.values()):
            self.wake_in(1.0)
        sweeps = [due_s for lane in self._lanes.values() if (due_s := lane.sweep_in()) is not None]
        if sweeps:
            self.wake_in(min(sweeps))
        return 0 if any(lane.hot and lane.demand() for lane in self._lanes.values()) else None

    def close(self) -> None:
        """Claim no more, and give back what waits for a slot."""
        self._open = False
        for lane in self._lanes.values():
            self._give_back(lane.empty())

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
            self._holdings.difference_update((job.id, job.attempt) for job in lane.empty())
        self._suspect = False
        await self._cancel()

    def _give_back(self, waiting: Iterable[ClaimedJob]) -> None:
        for job in waiting:
            self._finisher.give_back(job)
            if job.suspect:
                self._suspect = False

    def _let_next_suspect(self) -> None:
        self._suspect = False
        # it may stand before what has been claimed meanwhile
        self.ready(self._lanes, sweep=True)

    async def _look_for_strays(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._looks and now >= self._looks[0]:
            process = self._process()
            async with self._db.transaction() as connection:
                await processes.hold(connection, process=process)
                strays = await jobs.give_back_strays(connection, process=process, running=self._holdings)
            self._looks = [look for look in self._looks if look > now]
            if strays:
                self._log.warning("gave back %d jobs that this process held and did not run", len(strays))
                self.ready(self._lanes, sweep=True)
        if self._looks:
            self.wake_in(self._looks[0] - now)

    async def _cancel(self) -> None:
        slots = [slot for lane in self._lanes.values() for slot in lane.cancel()]
        if slots:
            await asyncio.wait(slots, timeout=_UNWIND_S)
