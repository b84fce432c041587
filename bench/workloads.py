"""The workloads of the queue: each counts its jobs in and out, and a lost or doubled one fails the run."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Sequence
from time import perf_counter

from bench.group import Group, Part
from bench.limits import bare_loop, bare_transactions, commits, fill, insert_rows
from bench.stand import Stand, counted_once
from chimpbase import App, Ctx, Queue, worker

noops = Queue("bench.noop", int)
writes = Queue("bench.write", int)
seen: list[int] = []
_PAUSE_S = 0.025


@worker(noops, concurrency=100)
async def noop(ctx: Ctx, number: int) -> None:
    """Counts itself, so that a lost or doubled job shows."""
    seen.append(number)


@worker(writes, concurrency=32)
async def write(ctx: Ctx, number: int) -> None:
    """One update in the job's own transaction."""
    await ctx.db.execute("update bench_account set done = done + 1 where id = $1", number)


class _Heard:
    """Counts every statement of a pool."""

    count = 0

    def before(self, sql: str, args: object) -> None:
        self.count += 1

    def after(self, sql: str, error: BaseException | None) -> None:
        """Nothing is to be done then."""


async def queue_limits(stand: Stand, *, jobs: int) -> dict[str, float]:
    """Jobs per second of the bare loop, with history rows and without, and rows per second of inserts alone."""
    queue, limits = await stand.queue(noops.name), dict[str, float]()
    for name, history in (("bare loop with history", True), ("bare loop", False)):
        rates: list[float] = []
        for _ in range(2):
            await stand.clean()
            await fill(stand.dsn, queue=queue, jobs=jobs)
            rates.append(await bare_loop(stand.dsn, queue=queue, jobs=jobs, history=history))
        # the better of two: a neighbour only ever takes away
        limits[name] = max(rates)
    await stand.clean()
    limits["insert by the thousand"] = max([await insert_rows(stand.dsn, queue=queue, rows=50_000) for _ in range(2)])
    return limits


async def filled(stand: Stand, *, jobs: int) -> None:
    """So many ready jobs, and nothing else."""
    await stand.clean()
    await fill(stand.dsn, queue=await stand.queue(noops.name), jobs=jobs)


async def drain_rate(stand: Stand, app: App, *, jobs: int) -> float:
    """Jobs per second of an app that finds a full queue and leaves an empty one."""
    seen.clear()
    async with stand.running(app):
        began = perf_counter()
        await stand.empty()
        seconds = perf_counter() - began
    counted_once(seen, jobs)
    return jobs / seconds


async def bulk_rate(stand: Stand, app: App, *, jobs: int) -> float:
    """Jobs per second of one call with very many."""
    await stand.clean()
    async with stand.running(app, workers=False):
        await app.ctx.queue.enqueue_many(noops, range(1000))
        began = perf_counter()
        await app.ctx.queue.enqueue_many(noops, range(jobs))
        seconds = perf_counter() - began
    if await stand.value("select count(*) from chimpbase.job") != jobs + 1000:
        raise RuntimeError("jobs were lost or doubled")
    return jobs / seconds


async def single_rate(stand: Stand, app: App, *, callers: int, each: int) -> float:
    """Jobs per second of durable single enqueues from that many callers at once."""
    await stand.clean()

    async def call() -> None:
        for number in range(each):
            await app.ctx.queue.enqueue(noops, number)

    async with stand.running(app, workers=False):
        await app.ctx.queue.enqueue(noops, 0)
        began = perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        seconds = perf_counter() - began
    stored = await stand.value("select count(*) from chimpbase.job") - 1
    if stored != each * callers:
        raise RuntimeError(f"{each * callers} jobs enqueued, {stored} stored")
    return stored / seconds


class QueueGroup(Group):
    """The queue alone."""

    name = "queue"
    title = "The queue"
    words = "A raw limit is the same statements in a bare loop on the same tables, fenced, without the engine."

    async def prepare(self) -> None:
        """Make the tables and the queues."""
        self.app = App("bench", register=[noop, write])
        # what a queue keeps is declared with its worker
        self.forgetful = App("bench", register=[worker(noops, concurrency=100, retention=None)(noop.function), write])
        self.jobs = self.sizes.of(100_000, least=5000)
        async with self.stand.running(self.app, workers=False):
            pass
        await self.stand.value("create table bench_account (id int primary key, done int not null default 0)")

    async def calibrate(self) -> dict[str, float]:
        """The raw limits of this server, on the engine's own tables."""
        stand, queue = self.stand, await self.stand.queue(noops.name)
        limits = await queue_limits(stand, jobs=self.jobs)
        limits["commits, 16 connections"] = await commits(stand.dsn, connections=16, seconds=2)
        rates: list[float] = []
        for _ in range(2):
            await stand.clean()
            await self._accounts(4000)
            await fill(stand.dsn, queue=queue, jobs=4000)
            rates.append(await bare_transactions(stand.dsn, queue=queue, jobs=4000, lanes=32))
        limits["transactions of a job, 32 lanes"] = max(rates)
        await stand.clean()
        return limits

    def parts(self) -> Sequence[Part]:
        """Every workload, in order."""
        parts: list[Part] = [
            ("drain no-op jobs, history of a day", lambda: self.drain(history=True)),
            ("drain no-op jobs, no history", lambda: self.drain(history=False)),
            ("transactional jobs", self.transactional),
            ("enqueue in bulk", self.bulk),
            ("enqueue one at a time", self.single),
            ("latency in the same process", self.latency_here),
            ("latency in another process", self.latency_elsewhere),
        ]
        return parts if self.turn > 1 else [*parts, ("an idle process", self.idle)]

    async def drain(self, *, history: bool) -> None:
        """From a full queue to an empty one."""
        stand = self.stand
        await filled(stand, jobs=self.jobs)
        wal = await stand.value("select pg_current_wal_lsn()::text")
        spent = await self._commits()
        rate = await drain_rate(stand, self.app if history else self.forgetful, jobs=self.jobs)
        kept = "one-day history" if history else "no history"
        title = f"drain no-op jobs, one process, {kept}"
        limit = self.limits["bare loop with history" if history else "bare loop"]
        self.add(title, rate, limit=limit, target_share=0.6)
        bytes_ = await stand.value("select pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn)::float8", wal)
        if self.turn == 1:
            self.add(f"WAL per job, {kept}", bytes_ / self.jobs, "bytes")
            self.add(f"commits per 1,000 jobs, {kept}", (await self._commits() - spent) / self.jobs * 1000, "")

    async def transactional(self) -> None:
        """Jobs with one update of their own, committed with their completion."""
        stand, count = self.stand, max(1000, self.jobs // 10)
        await stand.clean()
        await self._accounts(count)
        await stand.value(
            "insert into chimpbase.job (id, sort, queue, payload) select id, id, $1, n::text from"
            " (select nextval('chimpbase.job_id') as id, n from generate_series(1, $2::int) n) as new",
            await stand.queue(writes.name),
            count,
        )
        async with stand.running(self.app, pool_size=32):
            began = perf_counter()
            await stand.empty()
            seconds = perf_counter() - began
        wrong = await stand.value("select count(*) from bench_account where done <> 1")
        if wrong:
            raise RuntimeError(f"{wrong} of {count} jobs had their effect not exactly once")
        title = "transactional jobs with one update, exactly once"
        limit = self.limits["transactions of a job, 32 lanes"]
        self.add(title, count / seconds, limit=limit, target=5000)

    async def bulk(self) -> None:
        """One call with very many jobs."""
        rate = await bulk_rate(self.stand, self.app, jobs=self.jobs)
        self.add("enqueue_many in one call", rate, limit=self.limits["insert by the thousand"], target=120_000)

    async def single(self) -> None:
        """Durable single enqueues from 1, 50 and 256 callers at once."""
        for callers in (1, 50, 256):
            each = 2000 if callers == 1 else 400
            rate = await single_rate(self.stand, self.app, callers=callers, each=each)
            title = f"enqueue one at a time, {callers} caller{'s' if callers > 1 else ''}"
            # a single caller waits for each commit: no bulk rate is its limit
            limit = None if callers == 1 else self.limits["insert by the thousand"]
            self.add(title, rate, limit=limit, target=40_000 if callers == 50 else None)

    async def latency_here(self) -> None:
        """From the call of enqueue to the start of the handler, in an idle process."""
        await self.stand.clean()
        figures: list[float] = []
        started = asyncio.Event()
        app = App("bench")

        @app.worker(noops)
        async def hear(ctx: Ctx, number: int) -> None:
            figures.append((perf_counter() - began) * 1000)
            started.set()

        async with self.stand.running(app):
            for number in range(300):
                began = perf_counter()
                await app.ctx.queue.enqueue(noops, number)
                await started.wait()
                started.clear()
                await asyncio.sleep(_PAUSE_S)  # an idle process is one to which little happens
        self._latency("same process", figures, p50=None, p99=None)

    async def latency_elsewhere(self) -> None:
        """The same where another process runs the handler. Both read one clock, the machine's."""
        await self.stand.clean()
        count = 300
        arguments = [sys.executable, "-m", "bench.member", "hear", self.stand.dsn, str(count)]
        member = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        assert member.stdout is not None
        app = App("bench", register=[Queue("bench.heard", float)])
        await member.stdout.readline()
        async with self.stand.running(app, workers=False):
            for _ in range(count):
                await app.ctx.queue.enqueue("bench.heard", perf_counter())
                await member.stdout.readline()
                await asyncio.sleep(_PAUSE_S)
        figures = [float(word) for word in (await member.stdout.readline()).split()]
        await member.wait()
        if len(figures) != count:
            raise RuntimeError(f"{count} jobs in, {len(figures)} heard")
        self._latency("other process", figures, p50=1.5, p99=10)

    async def idle(self) -> None:
        """What a process with nothing to do asks of the server, once it is at rest."""
        async with self.stand.running(self.app) as runtime:
            await asyncio.sleep(4)
            heard = _Heard()
            for db in (runtime._db, runtime._lanes):
                assert db is not None, "it runs"
                db.listen(heard)
            await asyncio.sleep(15)
            # the heart has a connection of its own, and beats three times a lease
            beats = 3 / runtime.settings.lease.total_seconds()
        rate = heard.count / 15 + beats
        self.add("statements of an idle process", rate, "a second", target=2, less_is_better=True)

    async def _accounts(self, count: int) -> None:
        await self.stand.value("truncate bench_account")
        await self.stand.value("insert into bench_account select n, 0 from generate_series(1, $1::int) n", count)

    async def _commits(self) -> int:
        await self.stand.value("select pg_stat_force_next_flush()")
        return await self.stand.value(
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        )

    def _latency(self, where: str, figures: list[float], *, p50: float | None, p99: float | None) -> None:
        name = f"enqueue to start, idle, {where}"
        high = statistics.quantiles(figures, n=100)[98]
        self.add(f"{name}, p50", statistics.median(figures), "ms", target=p50, less_is_better=True)
        self.add(f"{name}, p99", high, "ms", target=p99, less_is_better=True)
        self.report.latencies(name, figures)
