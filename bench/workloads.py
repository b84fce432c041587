"""The workloads of the queue: each counts its jobs in and out, and a lost or doubled one voids the run."""

from __future__ import annotations

import asyncio
import statistics
import sys
from time import perf_counter

from rich.console import Console

from bench.limits import bare_loop, bare_transactions, commits, fill, insert_rows
from bench.report import Figure, Report
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


class Workloads:
    """One report on one stand."""

    def __init__(self, stand: Stand, report: Report, *, jobs: int, console: Console) -> None:
        self.stand, self.report, self.jobs, self.console = stand, report, jobs, console
        self.app = App("bench", register=[noop, write])
        # what a queue keeps is declared with its worker
        self.forgetful = App("bench", register=[worker(noops, concurrency=100, retention=None)(noop.function), write])
        self.limits: dict[str, float] = {}

    async def prepare(self) -> None:
        """Make the tables and the queues."""
        async with self.stand.running(self.app, workers=False):
            pass
        await self.stand.value("create table bench_account (id int primary key, done int not null default 0)")

    async def calibrate(self) -> dict[str, float]:
        """The raw limits of this server, on the engine's own tables."""
        stand, queue, limits = self.stand, await self.stand.queue(noops.name), dict[str, float]()
        for name, history in (("history", True), ("bare", False)):
            await stand.clean()
            await fill(stand.dsn, queue=queue, jobs=self.jobs)
            limits[name] = await bare_loop(stand.dsn, queue=queue, jobs=self.jobs, history=history)
        await stand.clean()
        limits["insert"] = await insert_rows(stand.dsn, queue=queue, rows=50_000)
        limits["commits"] = await commits(stand.dsn, connections=16, seconds=2)
        await self._accounts(4000)
        await fill(stand.dsn, queue=queue, jobs=4000)
        limits["transactions"] = await bare_transactions(stand.dsn, queue=queue, jobs=4000, lanes=32)
        await stand.clean()
        return limits

    async def all(self) -> None:
        """Every workload, in order."""
        for history in (True, False):
            await self.drain(history=history)
        await self.transactional()
        await self.bulk()
        for callers in (1, 50, 256):
            await self.enqueue(callers)
        await self.latency_here()
        await self.latency_elsewhere()
        await self.idle()

    async def drain(self, *, history: bool) -> None:
        """From a full queue to an empty one."""
        stand, queue = self.stand, await self.stand.queue(noops.name)
        await stand.clean()
        await fill(stand.dsn, queue=queue, jobs=self.jobs)
        seen.clear()
        wal = await stand.value("select pg_current_wal_lsn()::text")
        spent = await self._commits()
        async with stand.running(self.app if history else self.forgetful):
            began = perf_counter()
            await stand.empty()
            seconds = perf_counter() - began
        counted_once(seen, self.jobs)
        title = "drain no-op jobs, one process, " + ("one-day history" if history else "no history")
        limit = self.limits["history" if history else "bare"]
        self._add(Figure(title, self.jobs / seconds, limit=limit, target=0.6 * limit))
        bytes_ = await stand.value("select pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn)::float8", wal)
        self._add(Figure("  WAL per job", bytes_ / self.jobs, "bytes"))
        self._add(Figure("  commits per job", (await self._commits() - spent) / self.jobs, ""))

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
        self._add(Figure(title, count / seconds, limit=self.limits["transactions"], target=5000))

    async def bulk(self) -> None:
        """One call with very many jobs."""
        await self.stand.clean()
        async with self.stand.running(self.app, workers=False):
            await self.app.ctx.queue.enqueue_many(noops, range(1000))
            began = perf_counter()
            await self.app.ctx.queue.enqueue_many(noops, range(self.jobs))
            seconds = perf_counter() - began
        if await self.stand.value("select count(*) from chimpbase.job") != self.jobs + 1000:
            raise RuntimeError("jobs were lost or doubled")
        rate = self.jobs / seconds
        self._add(Figure("enqueue_many in one call", rate, limit=self.limits["insert"], target=120_000))

    async def enqueue(self, callers: int) -> None:
        """Durable single enqueues from that many callers at once."""
        each = 2000 if callers == 1 else 400
        await self.stand.clean()

        async def call() -> None:
            for number in range(each):
                await self.app.ctx.queue.enqueue(noops, number)

        async with self.stand.running(self.app, workers=False):
            await self.app.ctx.queue.enqueue(noops, 0)
            began = perf_counter()
            await asyncio.gather(*(call() for _ in range(callers)))
            seconds = perf_counter() - began
        stored = await self.stand.value("select count(*) from chimpbase.job") - 1
        if stored != each * callers:
            raise RuntimeError(f"{each * callers} jobs enqueued, {stored} stored")
        title = f"enqueue one at a time, {callers} caller{'s' if callers > 1 else ''}"
        target = 40_000 if callers == 50 else None
        limit = self.limits["commits"] / 16 if callers == 1 else self.limits["insert"]
        self._add(Figure(title, stored / seconds, limit=limit, target=target))

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
                db._hook = heard
                db._pool.expire()
            await asyncio.sleep(15)
            # the heart has a connection of its own, and beats three times a lease
            beats = 3 / runtime.settings.lease.total_seconds()
        self._add(
            Figure("statements of an idle process", heard.count / 15 + beats, "a second", target=2, less_is_better=True)
        )

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
        self._add(Figure(f"{name}, p50", statistics.median(figures), "ms", target=p50, less_is_better=True))
        self._add(Figure(f"{name}, p99", high, "ms", target=p99, less_is_better=True))

    def _add(self, figure: Figure) -> None:
        self.report.add(figure, self.console)
