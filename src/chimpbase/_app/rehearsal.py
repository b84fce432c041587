"""A runtime that does nothing by itself: jobs run when somebody says so, one after another, on a clock that is moved.

Handlers, transactions and statements are the real ones. What is absent is everything that acts on its own: loops,
notifications, the heartbeat; and so the order of what happens is always the same.

    ready job, by priority, then by when it became ready ──► none: fire schedules, promote what fell due ──► none: done
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Literal

from chimpbase._app.activations import migrating
from chimpbase._app.crashes import Crash
from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import Action
from chimpbase._app.handlers import handling, queue_spec
from chimpbase._app.hearing import hearings_of, receive
from chimpbase._app.replay import replay
from chimpbase._app.runtime import Program, Runtime
from chimpbase._core.errors import UsageError
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.values import ClaimedJob, JobId, ProcessId, QueueId
from chimpbase._engine.attempt import Attempt, Handling, Outcome, Told
from chimpbase._engine.broadcasts import Receiver
from chimpbase._engine.consumer import Consumer
from chimpbase._engine.engine import Engine
from chimpbase._engine.executor import Executor
from chimpbase._engine.finisher import Finisher
from chimpbase._engine.host import this_host
from chimpbase._engine.scheduler import Scheduler
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import gates, jobs, processes, queues, rehearsal, schedules

Ending = Literal["completed", "retried", "snoozed", "cancelled", "dead"]

_MOST_INLINE = 10_000
#: Nobody declares a rehearsal dead, however far its clock is moved.
_LEASE = timedelta(days=36500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt that raised. `queue` is the queue's name; with `dead` it was the job's last attempt."""

    queue: str
    job: int
    attempt: int
    error: Exception
    dead: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What ran: how many attempts ended each way, and the failures in their order.

    Deliveries, occurrences and activations of workflows are jobs, too. An activation counts as completed when its run
    came to rest as well as when it ended, failed or not: that is the run's to tell.
    """

    completed: int = 0
    retried: int = 0
    snoozed: int = 0
    cancelled: int = 0
    dead: int = 0
    failures: tuple[Failure, ...] = ()

    @property
    def attempts(self) -> int:
        """How many attempts ran."""
        return self.completed + self.retried + self.snoozed + self.cancelled + self.dead

    def __add__(self, other: Drained) -> Drained:
        return Drained(
            completed=self.completed + other.completed,
            retried=self.retried + other.retried,
            snoozed=self.snoozed + other.snoozed,
            cancelled=self.cancelled + other.cancelled,
            dead=self.dead + other.dead,
            failures=self.failures + other.failures,
        )


class RehearsedRuntime(Runtime):
    """A running app whose jobs wait for `drain` and `advance`."""

    def __init__(
        self, app: Program, *, overrides: Mapping[str, Any], http: bool, project: Path, inline: bool = False
    ) -> None:
        self._inline = inline
        super().__init__(app, overrides={**overrides, "notify": False}, workers=False, http=http, project=project)
        self._random = Random(0)  # the jitter of retries is the same in every rehearsal
        self._pools: list[Db] = []
        self._shift = timedelta(0)
        self._lanes: Db | None = None
        self._crew: _Crew | None = None
        self._draining = False
        self._consumers: list[Consumer] = []
        self._receiver: Receiver | None = None

    async def start(self) -> None:
        """As a runtime; the last act is to hire who runs the jobs."""
        await super().start()
        try:
            await self._hire()
        except BaseException:
            await self.stop()
            raise

    async def call_traced(
        self, trace: str | None, action: Action[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """As a runtime; inline, what it caused has happened when it returns."""
        result = await super().call_traced(trace, action, args, kwargs)
        await self._follow()
        return result

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Ctx]:
        """As a runtime; inline, what it caused has happened when the block is left."""
        async with super().transaction() as ctx:
            yield ctx
        await self._follow()

    async def _follow(self) -> None:
        # a call from within a job that is drained is a part of that drain
        if self._inline and not self._draining:
            await self.drain(raising=True, most=_MOST_INLINE)

    async def now(self) -> datetime:
        """The durable clock."""
        async with self.lanes.acquire() as connection:
            return await schedules.clock(connection)

    @property
    def lanes(self) -> Db:
        """The engine's own pool."""
        assert self._lanes is not None  # a runtime is only handed out once it has started
        return self._lanes

    async def drain(self, *, raising: bool, most: int, schedules: bool = True) -> Drained:
        """Run jobs until nothing is due. See `Rehearsal.drain`."""
        assert self._crew is not None
        if self._draining:
            raise UsageError("A handler cannot drain the jobs among which it runs.")
        self._draining = True
        endings: Counter[Ending] = Counter()
        failures: list[Failure] = []
        try:
            while True:
                claimed = await self._crew.claim(schedules=schedules)
                if claimed is None:
                    batch = await self._consume(raising=raising)
                    if batch is None:
                        if self._receiver is not None and await receive(self._receiver, raising=raising):
                            continue
                        break
                    endings[batch] += 1
                    if endings.total() > most:
                        raise UsageError(
                            f"{most} attempts have run and consumers have more to do. If they make each other work for "
                            "ever, run fewer with drain(most=...) and look; if there is that much, allow more."
                        )
                    continue
                if endings.total() >= most:
                    await self._crew.give_back(claimed)
                    raise UsageError(
                        f"{most} jobs have run and more are due. If they make each other for ever, run fewer with "
                        "drain(most=...) and look; if there are that many, allow more."
                    )
                ending, failure = await self._crew.run(claimed)
                endings[ending] += 1
                if failure is not None:
                    failures.append(failure)
                    if raising:
                        raise failure.error
        finally:
            self._draining = False
        return Drained(**endings, failures=tuple(failures))

    async def advance(self, by: timedelta, *, every_occurrence: bool, raising: bool, most: int) -> Drained:
        """Move the clock and run everything that falls due on the way. See `Rehearsal.advance`."""
        left, drained = by, Drained()
        while True:
            # what fell due before this instant is found by this drain; all that falls due after it, by a later one
            since = await self.now()
            drained += await self.drain(raising=raising, most=most, schedules=every_occurrence)
            async with self.lanes.acquire() as connection:
                due_at = await rehearsal.find_due(connection, since=since, schedules=every_occurrence)
            # the moves are what is limited, not the instant reached: real time passes as well, and two sleeps of an
            # hour shall be over after two hours
            lag = left + timedelta(1) if due_at is None else max(timedelta(0), due_at - await self.now())
            if lag > left:
                break
            self._move(lag)
            left -= lag
        self._move(left)
        return drained + await self.drain(raising=raising, most=most)

    async def waiting(self, queue: str) -> list[str]:
        """The payloads (JSON texts) of the jobs that wait in a queue."""
        async with self.lanes.acquire() as connection:
            return await rehearsal.list_waiting(connection, queue=queue)

    async def events(self, topic: str) -> list[str]:
        """The payloads (JSON texts) of what was published under a topic."""
        async with self.lanes.acquire() as connection:
            return await rehearsal.list_events(connection, topic=topic)

    async def replay(self, id: str) -> list[str]:
        """See `Rehearsal.crash_and_replay`."""
        return await replay(self._stage(), self.lanes, id=id)

    def listen(self, hook: Crash | None) -> None:
        """Let a crash stand at every statement, or none."""
        for pool in self._pools:
            pool.listen(hook)

    def _move(self, by: timedelta) -> None:
        self._shift += by
        for pool in self._pools:
            pool.shift_clock(self._shift)

    async def _pause(self, seconds: float) -> None:
        self._move(timedelta(seconds=seconds))

    async def _open(self, dsn: str, *, size: int, role: str, session: Mapping[str, str], json: bool = False) -> Db:
        pool = await super()._open(dsn, size=size, role=role, session=session, json=json)
        self._pools.append(pool)
        return pool

    async def _build_engine(self, dsn: str) -> Engine:
        engine = await super()._build_engine(dsn)
        engine.activator.pause = self._pause
        self._lanes = self._pools[-1]
        return engine

    async def _hire(self) -> None:
        definitions = self.app.registry.queued()
        async with self.lanes.acquire() as connection:
            ids = {name: id for name, (id, _) in (await queues.list_all(connection)).items()}
            process = await processes.register(
                connection,
                app=self.app.name,
                host=this_host(),
                pid=os.getpid(),
                version="rehearsal",
                lease=_LEASE,
                queues=[ids[queue_spec(one).name] for one in definitions],
            )
        handlings = [handling(self._stage(), one, ids[queue_spec(one).name], concurrency=1) for one in definitions]
        handlings += migrating(self._stage(), ids)
        self._crew = _Crew(self.lanes, handlings, process=process, random=self._random)
        self._rooms.push_async_callback(self._crew.leave)
        self._consumers = [
            Consumer(self.lanes, one, process=lambda: process, random=self._random.random)
            for one in await self._consumings()
        ]

    async def _consume(self, *, raising: bool) -> Ending | None:
        """Consume one batch; None when every consumer has read everything."""
        for consumer in self._consumers:
            if (batch := await consumer.take()) is not None:
                error = await consumer.run(batch)
                if error is not None and raising:
                    raise error
                return "completed" if error is None else "retried"
        return None

    async def _start_hearing(self, engine: Engine) -> None:
        """Broadcasts are heard when somebody drains, and none of them is ever too old."""
        hearings = hearings_of(self._stage())
        self._receiver = Receiver(self.lanes, hearings, poll_s=0, keep_s=float("inf"), random=self._random.random)
        await self._receiver.begin()


class _Crew:
    """Runs one job at a time under one lease."""

    def __init__(self, db: Db, handlings: list[Handling], *, process: ProcessId, random: Random) -> None:
        self._db, self._process = db, process
        self._handlings = {one.queue: one for one in handlings}
        holdings: set[tuple[JobId, int]] = set()
        self._finisher = _Finisher(db, process=lambda: process, holdings=holdings, random=random.random)
        self._executor = _Executor(self._finisher, random=random.random, on_later=lambda _seconds: None)
        self._scheduler = Scheduler(
            db,
            queues=list(self._handlings),
            on_ready=lambda _queues: None,
            on_later=lambda _seconds: None,
            random=random.random,
        )

    async def claim(self, *, schedules: bool) -> ClaimedJob | None:
        """The next job, after everything that fell due has been made ready; None when there is none."""
        async with self._db.acquire() as connection:
            if claimed := await self._claim_ready(connection):
                return claimed
        if schedules:
            while await self._scheduler.tick() == 0:
                pass
        async with self._db.acquire() as connection:
            # one by one, because a batch becomes ready in no order
            while (await jobs.promote(connection, max_jobs=1)).count:
                pass
            return await self._claim_ready(connection)

    async def run(self, job: ClaimedJob) -> tuple[Ending, Failure | None]:
        """Run an attempt to its settled end."""
        handling = self._handlings[job.queue]
        self._finisher.buried = False
        try:
            await self._executor.run(handling, job, self._process, Told())
        finally:
            await self._finisher.drain(patience_s=10.0)
        error, buried = self._executor.error, self._finisher.buried
        if error is None:
            return self._executor.ending, None
        failure = Failure(queue=handling.name, job=job.id, attempt=job.charged, error=error, dead=buried)
        return "dead" if buried else "retried", failure

    async def give_back(self, job: ClaimedJob) -> None:
        """Make a claimed job ready again."""
        self._finisher.give_back(job)
        await self._finisher.drain(patience_s=10.0)

    async def leave(self) -> None:
        """Let go of the lease."""
        async with self._db.acquire() as connection:
            await processes.remove(connection, processes=[self._process])

    async def _claim_ready(self, connection: Connection) -> ClaimedJob | None:
        open_queues = list[QueueId](self._handlings)
        while (queue := await rehearsal.find_head(connection, queues=open_queues)) is not None:
            demand = jobs.Demand(queue=queue, jobs=1, after=jobs.FROM_THE_START)
            if claimed := await jobs.claim(connection, process=self._process, demands=[demand], suspects=True):
                return claimed[0]
            admitted = await gates.admit(connection, queue=queue, process=self._process, demand=1, suspects=True)
            if admitted.jobs:
                return admitted.jobs[0]
            if not admitted.more:  # its limits, or somebody else's transaction, hold its next job
                open_queues.remove(queue)
        return None


class _Finisher(Finisher):
    """Tells whether the attempt that failed was the last of its job."""

    buried = False

    def dead_letter(self, end: jobs.Dead) -> None:
        self.buried = True
        super().dead_letter(end)


class _Executor(Executor):
    """Keeps how the last attempt ended."""

    error: Exception | None = None
    ending: Ending = "completed"

    def _succeeded(self, handling: Handling, attempt: Attempt, outcome: Outcome, started_s: float) -> None:
        self.error, self.ending = None, _ending(outcome)
        super()._succeeded(handling, attempt, outcome, started_s)

    def _failed(self, handling: Handling, attempt: Attempt, error: Exception) -> None:
        self.error = error
        super()._failed(handling, attempt, error)


def _ending(outcome: Outcome) -> Ending:
    match outcome:
        case None:
            return "completed"
        case Snooze():
            return "snoozed"
        case Cancel():
            return "cancelled"
        case DeadLetter():
            return "dead"
