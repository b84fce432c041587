"""A lane: one queue in this process. Its slots, the jobs that wait for one, and how many more to ask for.

A slot is a coroutine that lives as long as the lane and takes jobs from a deque; no task is made for each job. The
deque may hold more jobs than there are slots, but only about a fifth of a second of work, measured as it goes: enough
to hide the round trip of a claim, little enough that a crash or an urgent job does not wait behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter

from chimpbase._core.values import ClaimedJob, ProcessId
from chimpbase._engine.attempt import Handling
from chimpbase._engine.executor import Executor
from chimpbase._store.jobs import FROM_THE_START, Demand

_AHEAD_S = 0.2
_MOST_AHEAD = 1000
_SWEEP_S = 0.25
_BREATH = 64
_log = logging.getLogger("chimpbase.engine.lane")


class Lane:
    """`hot`: a claim may find something. `on_hungry` is called when it would be good to claim again, `on_suspect_ended`
    when a job that may kill its process has not.
    """

    def __init__(
        self,
        handling: Handling,
        executor: Executor,
        *,
        on_hungry: Callable[[], None],
        on_suspect_ended: Callable[[], None],
    ) -> None:
        self.handling = handling
        self.hot = True
        self._executor, self._on_hungry, self._on_suspect_ended = executor, on_hungry, on_suspect_ended
        self._process: ProcessId | None = None
        self._buffer: deque[ClaimedJob] = deque()
        self._slots: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._running = 0
        self._mean_s: float | None = None
        self._hint = FROM_THE_START
        self._sweep_at_s = 0.0
        self._quiet: asyncio.Future[None] | None = None

    @property
    def held(self) -> int:
        """Jobs leased for this lane: running and waiting for a slot."""
        return self._running + len(self._buffer)

    @property
    def running(self) -> int:
        """Attempts in progress."""
        return self._running

    @property
    def free(self) -> int:
        """Slots with nothing to do."""
        return max(0, self.handling.slots - self.held)

    def demand(self) -> Demand | None:
        """What to ask of the next claim; None while there is enough."""
        room = self.handling.slots + self._ahead() - self.held
        if room < max(1, min(self.handling.slots, self._ahead()) // 2) and self.free == 0:
            return None
        if perf_counter() >= self._sweep_at_s:
            self._hint = FROM_THE_START
        return Demand(queue=self.handling.queue, jobs=room, after=self._hint)

    def sweep(self) -> None:
        """Let the next claim begin at the start: something may have become ready behind the hint."""
        self._sweep_at_s = 0.0

    def take(self, jobs: list[ClaimedJob], *, process: ProcessId, asked: Demand, seconds: float) -> None:
        """Run these jobs, claimed for `process` in answer to `asked`, which took `seconds`."""
        self._process = process
        if asked.after == FROM_THE_START:
            self._sweep_at_s = perf_counter() + max(_SWEEP_S, 20 * seconds)
        for job in jobs:
            priority, sort = self._hint
            # the lowest number seen leads: what is more urgent than that waits for the next sweep
            if self._hint == FROM_THE_START or job.priority < priority:
                self._hint = (job.priority, job.sort)
            elif job.priority == priority and job.sort > sort:
                self._hint = (priority, job.sort)
        # a full answer suggests more, and a suspect that others were left behind for it
        self.hot = self.hot or len(jobs) >= asked.jobs or any(job.suspect for job in jobs)
        self._buffer.extend(jobs)
        for _ in range(min(len(jobs), len(self._idle))):
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
        while len(self._slots) < min(self.handling.slots, self.held):
            slot = asyncio.create_task(self._work(), name=self.handling.name)
            self._slots.add(slot)
            slot.add_done_callback(self._slots.discard)

    def empty(self) -> list[ClaimedJob]:
        """Take back the jobs that wait for a slot."""
        jobs = list(self._buffer)
        self._buffer.clear()
        return jobs

    async def quiet(self) -> None:
        """Until nothing runs here. For a lane that is given no more jobs."""
        if self._running:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def cancel(self) -> Iterable[asyncio.Task[None]]:
        """Cancel what runs; the slots, to be waited for. The lane works again when it is given jobs."""
        slots = list(self._slots)
        self._idle.clear()
        for slot in slots:
            slot.cancel()
        return slots

    async def _work(self) -> None:
        run, handling, buffer = self._executor.run, self.handling, self._buffer
        slot, breath = asyncio.current_task(), _BREATH
        assert slot is not None
        while True:
            if not buffer:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
                breath = _BREATH
                continue
            job = buffer.popleft()
            assert self._process is not None
            self._running += 1
            began_s = perf_counter()
            try:
                await run(handling, job, process=self._process)
            finally:
                self._running -= 1
                self._learn(perf_counter() - began_s)
                if job.suspect:
                    self._on_suspect_ended()
                if self._quiet is not None and not self._running and not self._quiet.done():
                    self._quiet.set_result(None)
            if slot.cancelling():  # the handler swallowed it, but this slot was told to end
                return
            breath -= 1
            if not breath:  # handlers that never wait would keep everybody else from the loop
                breath = _BREATH
                await asyncio.sleep(0)

    def _learn(self, seconds: float) -> None:
        self._mean_s = seconds if self._mean_s is None else self._mean_s * 0.95 + seconds * 0.05
        if self.hot and (self.free or len(self._buffer) * 2 <= self._ahead()):
            self._on_hungry()

    def _ahead(self) -> int:
        """How many jobs may wait for a slot."""
        if self._mean_s is None:
            return 0
        return min(_MOST_AHEAD, int(self.handling.slots * _AHEAD_S / max(self._mean_s, 1e-6)))
