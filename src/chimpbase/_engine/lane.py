"""A lane: one queue in this process. Its slots, the jobs that wait for one, and how many more to ask for.

A slot is a coroutine that lives as long as the lane and takes jobs from a deque; no task is made for each job. The
deque may hold more jobs than there are slots, but only about a fifth of a second of work, measured as it goes: enough
to hide the round trip of a claim, little enough that a crash or an urgent job does not wait behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from time import perf_counter

from chimpbase._core.values import ClaimedJob, JobId, ProcessId
from chimpbase._engine.attempt import Handling, Told
from chimpbase._engine.executor import Executor
from chimpbase._store import cancels
from chimpbase._store.jobs import FROM_THE_START, Demand

_AHEAD_S = 0.2
_MOST_AHEAD = 1000
_STALE_S = 1.0
_SWEEP_S = 0.25
_BREATH = 64
_turn_of = attrgetter("priority", "sort")
_is_suspect = attrgetter("suspect")


class _Slot(Told):
    """A coroutine that runs jobs, one after another or a batch at a time, and what it runs since when."""

    __slots__ = ("began_s", "jobs", "task")

    def __init__(self) -> None:
        super().__init__()
        self.task: asyncio.Task[None] | None = None
        self.jobs: Sequence[ClaimedJob] = ()
        self.began_s = 0.0


class Lane:
    """`hot`: a claim may find something. `on_hungry` is called when it would be good to claim again, `on_suspect_ended`
    when a job that may kill its process has not, `on_ended` after each attempt. A lane is `gated` when its queue has
    limits: it then holds nothing ahead of its slots, for whatever is leased counts as running.
    """

    def __init__(
        self,
        handling: Handling,
        executor: Executor,
        *,
        on_hungry: Callable[[], None],
        on_suspect_ended: Callable[[], None],
        on_ended: Callable[[ClaimedJob], None],
    ) -> None:
        self.handling = handling
        self.hot, self.gated = True, False
        #: Slots that wait for a job which is being stored for them.
        self.promised = 0
        self._on_ended = on_ended
        self._executor, self._on_hungry, self._on_suspect_ended = executor, on_hungry, on_suspect_ended
        self._process: ProcessId | None = None
        self._buffer: deque[ClaimedJob] = deque()
        self._slots: set[_Slot] = set()
        self._ending = 0
        self._idle: list[asyncio.Future[None]] = []
        self._running = 0
        self._moved_s = 0.0
        self._mean_s = 0.0
        #: So few jobs before the slots are a reason to ask for more; -1 while that has been asked for already.
        self._low = 0
        self._hint = FROM_THE_START
        self._swept_s, self._sweep_cost_s, self._fell_short = 0.0, 0.0, False
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
        """Places in slots with nothing to do in them."""
        return max(0, self.handling.places - self.held - self.promised)

    def demand(self) -> Demand | None:
        """What to ask of the next claim; None while there is enough."""
        now = perf_counter()
        ahead = 0 if self._stuck(now) else self._ahead()
        self._low = self._lowest(ahead)
        room = self.handling.places + ahead - self.held - self.promised
        if room <= 0 or (room < max(1, min(self.handling.places, ahead) // 2) and self.free == 0):
            return None
        if self.gated or now >= self._sweep_at():
            self._hint = FROM_THE_START
        return Demand(queue=self.handling.queue, jobs=room, after=self._hint)

    def sweep(self) -> None:
        """Let the next claim begin at the start: something may have become ready behind the hint."""
        self._swept_s = self._sweep_cost_s = 0.0

    def sweep_in(self) -> float | None:
        """Seconds until a claim from the start is due, because one after the hint left slots empty; else None."""
        return max(0.0, self._sweep_at() - perf_counter()) if self._fell_short and self.free else None

    def take(self, jobs: list[ClaimedJob], *, process: ProcessId, asked: Demand, seconds: float) -> None:
        """Run these jobs, claimed for `process` in answer to `asked`, which took `seconds`."""
        now = perf_counter()
        self._process = process
        swept = asked.after == FROM_THE_START
        if swept:
            self._swept_s, self._sweep_cost_s = now, seconds
        self._fell_short = not swept and len(jobs) < asked.jobs
        # the claim answers in no order; jobs start in that of their queue
        jobs.sort(key=_turn_of)
        if jobs:
            self._move_hint(jobs)
        # a full answer suggests more, and a suspect that others were left behind for it
        self.hot = self.hot or len(jobs) >= asked.jobs or any(map(_is_suspect, jobs))
        if not self._buffer:
            self._moved_s = now
        urgent = bool(self._buffer and jobs and jobs[0].priority < self._buffer[-1].priority)
        self._buffer.extend(jobs)
        if urgent:
            waiting = sorted(self._buffer, key=_turn_of)
            self._buffer.clear()
            self._buffer.extend(waiting)
        self._low = self._lowest(self._ahead())
        self._fill()

    def adopt(self, jobs: list[ClaimedJob], *, process: ProcessId) -> None:
        """Run these jobs, which were stored for free slots of this lane."""
        self._process = process
        if not self._buffer:
            self._moved_s = perf_counter()
        self._buffer.extend(jobs)
        self._fill()

    def stale(self) -> list[ClaimedJob]:
        """Take back the jobs that have waited too long for a slot, so that another process may have them."""
        if not self._buffer or perf_counter() - self._moved_s < _STALE_S:
            return []
        self.hot = True
        self.sweep()
        return self.empty()

    def empty(self) -> list[ClaimedJob]:
        """Take back the jobs that wait for a slot."""
        jobs = list(self._buffer)
        self._buffer.clear()
        return jobs

    def cancel_job(self, job: JobId, attempt: int, *, reason: str | None) -> ClaimedJob | None:
        """Cancel one attempt if it runs here, once; if it only waits for a slot, take it back and return it."""
        for slot in self._slots:
            if any(one.id == job and one.attempt == attempt for one in slot.jobs):
                if slot.to_cancel is None and not slot.ending and slot.task is not None:
                    slot.to_cancel = cancels.Cancelled(job, attempt, reason)
                    slot.task.cancel()
                return None
        found = next((one for one in self._buffer if one.id == job and one.attempt == attempt), None)
        if found is not None:
            self._buffer.remove(found)
        return found

    async def quiet(self) -> None:
        """Until nothing runs here. For a lane that is given no more jobs."""
        if self._running:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def cancel(self) -> Iterable[asyncio.Task[None]]:
        """Cancel what runs; the slots, to be waited for. New slots take their place when there is work."""
        self._idle.clear()
        tasks: list[asyncio.Task[None]] = []
        for slot in self._slots:
            if slot.task is not None:
                self._ending += not slot.ending
                slot.ending = True
                slot.task.cancel()
                tasks.append(slot.task)
        return tasks

    def _move_hint(self, jobs: Sequence[ClaimedJob]) -> None:
        """To the last of the most urgent ones of these, which are in order."""
        priority, sort = self._hint
        first, last = jobs[0], jobs[-1]
        if last.priority != first.priority:
            last = next(job for job in reversed(jobs) if job.priority == first.priority)
        # the lowest number seen leads: what is more urgent than that waits for the next sweep
        if self._hint == FROM_THE_START or last.priority < priority:
            self._hint = (last.priority, last.sort)
        elif last.priority == priority and last.sort > sort:
            self._hint = (priority, last.sort)

    def _fill(self) -> None:
        """See to it that every waiting job has a slot on its way, as far as there are slots."""
        for _ in range(min(len(self._buffer), len(self._idle))):
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
        living = len(self._slots) - self._ending
        for _ in range(min(self.handling.slots - living, len(self._buffer))):
            slot = _Slot()
            slot.task = asyncio.create_task(self._work(slot), name=self.handling.name)
            self._slots.add(slot)
            slot.task.add_done_callback(lambda _, slot=slot: self._gone(slot))

    def _gone(self, slot: _Slot) -> None:
        self._slots.discard(slot)
        self._ending -= slot.ending
        slot.task = None
        self._fill()

    async def _work(self, slot: _Slot) -> None:
        run, run_batch = self._executor.run, self._executor.run_batch
        handling, buffer, batch, breath = self.handling, self._buffer, self.handling.batch, _BREATH
        task = asyncio.current_task()
        assert task is not None
        while True:
            if not buffer:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
                breath = _BREATH
                continue
            process = self._process
            assert process is not None
            slot.jobs = jobs = (buffer.popleft(),) if batch == 1 else self._next_batch()
            slot.began_s = self._moved_s = perf_counter()
            self._running += len(jobs)
            try:
                if len(jobs) == 1:
                    await run(handling, jobs[0], process, slot)
                else:
                    await run_batch(handling, jobs, process, slot)
            finally:
                slot.jobs, slot.to_cancel = (), None
                self._running -= len(jobs)
                self._ended(jobs, perf_counter() - slot.began_s)
            if slot.ending:  # the handler swallowed its cancellation, but this slot is over
                return
            while task.cancelling():  # nobody of ours did that; the next job must not pay for it
                task.uncancel()
            breath -= 1
            if not breath:  # handlers that never wait would keep everybody else from the loop
                breath = _BREATH
                await asyncio.sleep(0)

    def _ended(self, jobs: Sequence[ClaimedJob], seconds: float) -> None:
        """After each attempt, so that little is done here."""
        mean_s = self._mean_s
        # slow jobs are believed at once, fast ones by and by: what is held too far ahead is held from others
        self._mean_s = mean_s + (seconds - mean_s) * (0.05 if seconds < mean_s else 0.5 if mean_s else 1.0)
        if len(self._buffer) <= self._low and self.hot:
            self._low = -1
            self._on_hungry()
        if jobs[0].suspect:  # such a one is always alone
            self._on_suspect_ended()
        if self.gated:
            for job in jobs:
                self._on_ended(job)
        if self._quiet is not None and not self._running and not self._quiet.done():
            self._quiet.set_result(None)

    def _next_batch(self) -> tuple[ClaimedJob, ...]:
        """The next jobs for one slot. One that may kill its process, or has failed before, goes alone."""
        buffer, jobs = self._buffer, [self._buffer.popleft()]
        if not _goes_alone(jobs[0]):
            while buffer and len(jobs) < self.handling.batch and not _goes_alone(buffer[0]):
                jobs.append(buffer.popleft())
        return tuple(jobs)

    def _ahead(self) -> int:
        """How many jobs may wait for a slot. None where a job may be tried only once: a crash charges all it holds."""
        if not self._mean_s or self.gated or self.handling.retry.max_attempts == 1:
            return 0
        return min(_MOST_AHEAD, int(self.handling.places * _AHEAD_S / max(self._mean_s, 1e-6)))

    def _lowest(self, ahead: int) -> int:
        """With how many jobs before the slots it is time to claim again: the next claim takes a while."""
        return max(ahead // 2, self.handling.places - self.handling.slots)

    def _stuck(self, now: float) -> bool:
        """Whether something that runs has run for so long that what it took before says nothing."""
        return any(slot.jobs and now - slot.began_s > _AHEAD_S for slot in self._slots)

    def _sweep_at(self) -> float:
        rest_s = 20 * self._sweep_cost_s if self._fell_short else max(_SWEEP_S, 20 * self._sweep_cost_s)
        return self._swept_s + rest_s


def _goes_alone(job: ClaimedJob) -> bool:
    return job.suspect or job.charged > 1
