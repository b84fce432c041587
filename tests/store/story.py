"""A queue to which things happen in any order: what may happen, and what must hold whatever did.

The model knows the limits and reads only where jobs are; what gates and keys note for themselves is for them alone to
get right.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

import asyncpg

from chimpbase._core.limits import Limits, Rate
from chimpbase._core.values import ClaimedJob, JobId, NewJob, ProcessId, QueueId, QueueSpec
from chimpbase._pg.db import Db
from chimpbase._schema.migrate import migrate
from chimpbase._schema.source import own_source
from chimpbase._store import cancels, gates, jobs, processes, queues

T = TypeVar("T")
ERROR = '{"attempt": 1, "error": "E", "message": "m"}'


class World:
    """A database with one queue, and an event loop to talk to it."""

    def __init__(self, dsn: str) -> None:
        self.runner = asyncio.Runner()
        self.db: Db = self.runner.run(self._open(dsn))

    async def _open(self, dsn: str) -> Db:
        db = await Db.open(dsn, application_name="model", size=2)
        await migrate(db, source=own_source(), random=Random())
        async with db.acquire() as connection:
            await queues.register(connection, [QueueSpec(name="work", kind="job", max_attempts=1000)])
            await connection.execute("update chimpbase.queue set max_crashes = 1000, retention = null")
        return db

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def reset(self) -> None:
        async with self.db.acquire() as connection:
            await connection.execute(
                "truncate chimpbase.job, chimpbase.job_wait, chimpbase.job_later, chimpbase.job_dead, chimpbase.gate, "
                "chimpbase.key_news, chimpbase.job_key, chimpbase.process, chimpbase.job_cancel, chimpbase.job_done, "
                "chimpbase.job_unique, chimpbase.job_after, chimpbase.strike"
            )
            await connection.execute("update chimpbase.queue set paused_at = null, retention = null, struck = false")

    def close(self) -> None:
        self.runner.run(self.db.close(grace=timedelta(seconds=1)))
        self.runner.close()


@contextmanager
def world_at(dsn: str) -> Iterator[World]:
    world = World(dsn)
    try:
        yield world
    finally:
        world.close()


class Story:
    """What happens to the queue, one event after another."""

    def __init__(self, world: World, limits: Limits | None) -> None:
        self.world = world
        self.world(self.world.reset())
        self.queue: QueueId = self._value("select id from chimpbase.queue")
        self.limits: Limits | None = None
        self.declared, self.overridden = Limits(), dict[str, Any]()
        self.shift = timedelta(0)
        self.world.db.shift_clock(self.shift)
        self.processes: list[ProcessId] = [self._register(), self._register()]
        self.held: list[tuple[ProcessId, ClaimedJob]] = []
        self.starts: list[tuple[str, float]] = []
        if limits is not None:
            self.declare(limits)

    # What happens

    def enqueue(self, key: str | None, priority: int, number: int, delay: float | None) -> None:
        new = NewJob(
            queue=self.queue,
            payload="1",
            key=key,
            priority=priority,
            delay=None if delay is None else timedelta(seconds=delay),
        )
        self._enqueued(new, self._do(jobs.enqueue, [new] * number))

    def declare(self, limits: Limits) -> None:
        self._do(gates.declare, limits={"work": limits.stored()})
        self.declared = limits
        self._change()

    def override(self, override: dict[str, Any]) -> None:
        if self.limits is None:
            return
        self._do(gates.override, name="work", limits=override)
        self.overridden = override
        self._change()

    def _change(self) -> None:
        limits = replace(self.declared, **self.overridden)
        self.starts = []
        found = self._do(gates.list_all)
        # a queue without any limits has no gate, unless it had one before
        assert [status.effective for status in found] == [limits.stored()] * len(found)
        assert found or not limits.stored()
        self.limits = limits if found else None

    def admit(self, which: int, demand: int) -> None:
        process = self.processes[which]
        admitted = self._do(gates.admit, queue=self.queue, process=process, demand=demand, suspects=True)
        while admitted.more:
            assert not admitted.jobs
            admitted = self._do(gates.admit, queue=self.queue, process=process, demand=demand, suspects=True)
        self._hold(process, admitted.jobs)
        if self.limits is None:
            assert admitted.jobs == []
        else:
            self._check_admitted(admitted.jobs)
            if len(admitted.jobs) < demand:
                self._check_nothing_else_may_start(admitted.opens_s)

    def claim(self, which: int, demand: int) -> None:
        process = self.processes[which]
        wanted = jobs.Demand(queue=self.queue, jobs=demand, after=jobs.FROM_THE_START)
        claimed = self._do(jobs.claim, process=process, demands=[wanted], suspects=True)
        assert self.limits is None or claimed == []
        self._hold(process, claimed)

    def end(self, which: int, how: str) -> None:
        if not self.held:
            return
        process, job = self.held.pop(which % len(self.held))
        id, attempt, later = job.id, job.attempt, timedelta(seconds=2)
        match how:
            case "finish":
                ended = self._do(jobs.finish, process=process, jobs=[jobs.Finished(id, attempt)])
            case "fail":
                ended = self._do(jobs.put_off, process=process, jobs=[jobs.PutOff(id, attempt, later, True, ERROR)])
            case "unreachable":
                ended = self._do(jobs.put_off, process=process, jobs=[jobs.PutOff(id, attempt, later, False, ERROR)])
            case "snooze":
                ended = self._do(jobs.put_off, process=process, jobs=[jobs.PutOff(id, attempt, later, False, None)])
            case "bury":
                ended = self._do(jobs.dead_letter, process=process, jobs=[jobs.Dead(id, attempt, "rejected", ERROR)])
            case _:
                ended = self._do(jobs.give_back, process=process, jobs=[job])
        assert ended == {id}
        self._ended(id, how)

    def run_dry(self, which: int) -> None:
        for _ in range(20):
            self.admit(which, 6)
            while self.held:
                self.end(0, "finish")

    def crash(self, which: int) -> None:
        dead, self.processes[which] = self.processes[which], self._register()
        self._do(processes.expire, gone=[dead])
        rescued = self._do(jobs.rescue, processes=[dead], error=ERROR)
        assert {one.id for one in rescued} == {job.id for process, job in self.held if process == dead}
        assert self._do(gates.admit, queue=self.queue, process=dead, demand=5, suspects=True).jobs == []
        self.held = [(process, job) for process, job in self.held if process != dead]
        for one in rescued:
            self._ended(one.id, "rescue")

    def wait(self, seconds: float) -> None:
        self.shift += timedelta(seconds=seconds)
        self.world.db.shift_clock(self.shift)
        while self._do(jobs.promote, max_jobs=100).count:
            pass

    def pause_and_resume(self, which: int) -> None:
        self._do(queues.pause, name="work", by="me", reason=None)
        process = self.processes[which]
        assert self._do(gates.admit, queue=self.queue, process=process, demand=5, suspects=True).jobs == []
        self._do(queues.resume, name="work")

    def cancel(self, which: int) -> None:
        waiting = self._rows(
            "select id from chimpbase.job_wait union all select id from chimpbase.job_later order by id"
        )
        if waiting:
            job = waiting[which % len(waiting)][0]
            assert self._do(cancels.cancel, job=job, reason=None).outcome == "cancelled"
            self._ended(job, "cancel")

    def prune(self) -> None:
        self._do(gates.prune, max_rows=100)

    # Who wants to know

    def _enqueued(self, new: NewJob, ids: list[JobId]) -> None:
        """These jobs were stored."""

    def _begun(self, job: ClaimedJob) -> None:
        """This one was leased."""

    def _ended(self, id: JobId, how: str) -> None:
        """An attempt of this one ended, or it was cancelled as it waited."""

    def _hold(self, process: ProcessId, claimed: list[ClaimedJob]) -> None:
        self.held += [(process, job) for job in claimed]
        for job in claimed:
            self._begun(job)

    # What must hold

    def what_is_held_is_what_runs(self) -> None:
        rows = self._rows("select process, id, attempt from chimpbase.job where process is not null")
        mine = sorted((process, job.id, job.attempt) for process, job in self.held)
        assert sorted(tuple(row) for row in rows) == mine

    def _check_admitted(self, admitted: list[ClaimedJob]) -> None:
        limits = self.limits
        assert limits is not None
        if not admitted:
            return
        running = Counter(job.key for _, job in self.held)
        assert running.total() <= (limits.concurrency or math.inf)
        for job in admitted:
            if job.key is not None:
                assert running[job.key] <= self._most_of_key()
                if limits.ordered:
                    self._check_first_in_line(job)
        for job in admitted:
            (at,) = self._rows("select claimed_at from chimpbase.job where id = $1", job.id)[0]
            self.starts.append((job.key or "", at.timestamp()))
        for rate, starts in self._metered(limits):
            self._check_rate(rate, starts)

    def _most_of_key(self) -> float:
        assert self.limits is not None
        return 1 if self.limits.ordered else self.limits.key_concurrency or math.inf

    def _check_first_in_line(self, job: ClaimedJob) -> None:
        waiting = self._rows(
            "select priority, id from chimpbase.job_wait where key = $1 union all "
            "select priority, id from chimpbase.job where key = $1 and process is null",
            job.key,
        )
        assert all((job.priority, job.id) < tuple(other) for other in waiting)
        if self.limits is not None and self.limits.ordered is True:
            assert job.key not in self._retrying()

    def _retrying(self) -> set[str]:
        """The keys that are held by a job that failed and will run again."""
        return {
            row[0] for row in self._rows("select key from chimpbase.job_later where errors is not null and key > ''")
        }

    def _metered(self, limits: Limits) -> Iterator[tuple[Rate, list[float]]]:
        if limits.rate is not None:
            yield limits.rate, [at for _, at in self.starts]
        if limits.key_rate is not None:
            for key in {key for key, _ in self.starts} - {""}:
                yield limits.key_rate, [at for other, at in self.starts if other == key]

    def _check_rate(self, rate: Rate, starts: list[float]) -> None:
        speed = rate.limit / rate.per.total_seconds()
        for first, began in enumerate(starts):
            for last in range(first, len(starts)):
                assert last - first + 1 <= rate.burst + speed * (starts[last] - began) + 1e-3

    def _check_nothing_else_may_start(self, opens_s: float | None) -> None:
        """An admission that came back with less than was asked for has left nothing behind that may start."""
        limits = self.limits
        assert limits is not None
        if len(self.held) >= (limits.concurrency or math.inf):
            return
        waiting = {row[0] for row in self._rows("select distinct key from chimpbase.job_wait")}
        running = Counter(job.key for _, job in self.held)
        held = self._retrying() if limits.ordered is True else set[str]()
        may = {key for key in waiting if not key or (running[key] < self._most_of_key() and key not in held)}
        if may:
            # only a bucket can hold them, and then it is known when it opens
            assert limits.rate is not None or (limits.key_rate is not None and "" not in may)
            assert opens_s is not None
            assert 0 < opens_s <= 10
        assert self._rows("select 1 from chimpbase.job where process is null") == []

    # How

    def _do(self, function: Any, *args: Any, **options: Any) -> Any:
        async def work() -> Any:
            async with self.world.db.acquire() as connection:
                return await function(connection, *args, **options)

        return self.world(work())

    def _rows(self, sql: str, *args: object) -> list[asyncpg.Record]:
        async def work() -> Any:
            async with self.world.db.acquire() as connection:
                return await connection.fetch(sql, *args)

        return self.world(work())

    def _value(self, sql: str) -> Any:
        return self._rows(sql)[0][0]

    def _register(self) -> ProcessId:
        lease = timedelta(days=1)
        return self._do(processes.register, app="x", host="x", pid=1, version="1", lease=lease, queues=[])
