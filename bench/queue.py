"""The queue engine against the raw limit of the same server, in one run.

    .venv/bin/python bench/queue.py [--jobs 100000] [--json results.json]

Starts a PostgreSQL of its own (fsync on), runs the bare loop before and after, and counts every job in and out: a lost
or doubled job fails the run. Ratios are what to read; the absolute figures belong to the machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

# this file is called like a module of the standard library: its own folder must not be searched for imports
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from bench.limits import bare_loop, commits, fill, insert_rows
from chimpbase import App, Ctx, Queue, worker
from chimpbase._pg.embedded import EmbeddedServer

SERVER = {"shared_buffers": "2GB", "max_wal_size": "8GB", "max_connections": "200"}
noops = Queue("bench.noop", int)
writes = Queue("bench.write", int)
seen: list[int] = []
woken: asyncio.Event | None = None


@worker(noops, concurrency=100)
async def noop(ctx: Ctx, number: int) -> None:
    """Counts itself, so that a lost or doubled job shows."""
    seen.append(number)
    if woken is not None:
        woken.set()


@worker(writes, concurrency=32)
async def write(ctx: Ctx, number: int) -> None:
    """One update in the job's own transaction."""
    await ctx.db.execute("update bench_account set done = done + 1 where id = $1", number)


@dataclass
class Report:
    """Figures by name: the value, its unit, the raw limit it is measured against, and the target share of it."""

    rows: list[dict[str, object]] = field(default_factory=list)

    def add(
        self, name: str, value: float, unit: str, *, limit: float | None = None, target: float | None = None
    ) -> None:
        share = value / limit if limit else None
        self.rows.append({"name": name, "value": value, "unit": unit, "limit": limit, "share": share, "target": target})

    def show(self, console: Console) -> None:
        table = Table("workload", "figure", "raw limit", "share of limit", "target")
        for row in self.rows:
            limit, share, target = row["limit"], row["share"], row["target"]
            table.add_row(
                str(row["name"]),
                f"{row['value']:,.1f} {row['unit']}" if row["unit"] != "/s" else f"{row['value']:,.0f}/s",
                f"{limit:,.0f}/s" if limit else "",
                f"{share:.0%}" if share else "",
                f"{target:,.0f}" if target else "",
            )
        console.print(table)


class Bench:
    """One server, one report."""

    def __init__(self, dsn: str, directory: Path, jobs: int, report: Report) -> None:
        self.dsn, self.directory, self.jobs, self.report = dsn, directory, jobs, report
        self.app = App("bench", register=[noop, write])

    async def run(self) -> None:
        """Every workload, in order."""
        async with self.running(workers=False):
            pass
        queue = await self.value("select id from chimpbase.queue where name = 'bench.noop'")
        limits = await self.calibrate(queue)
        self.report.add("bare loop, with history", limits["history"], "/s")
        self.report.add("bare loop, without history", limits["bare"], "/s")
        for history in (True, False):
            await self.value("update chimpbase.queue set retention = case when $1 then interval '1 day' end", history)
            rate = await self.drain(queue)
            name = "drain no-op jobs, one process, " + ("one-day history" if history else "no history")
            self.report.add(name, rate, "/s", limit=limits["history" if history else "bare"])
        await self.transactional(limits)
        for callers in (1, 50, 256):
            await self.enqueue(callers, limits)
        await self.latency()
        await self.idle()
        after = await self.calibrate(queue)
        drift = max(abs(after[name] / limits[name] - 1) for name in limits)
        self.report.add("drift of the calibration over the run", drift * 100, "%")

    async def calibrate(self, queue: int) -> dict[str, float]:
        """The raw limits, on the engine's own tables."""
        limits: dict[str, float] = {}
        for name, history in (("history", True), ("bare", False)):
            await fill(self.dsn, queue=queue, jobs=self.jobs)
            limits[name] = await bare_loop(self.dsn, queue=queue, jobs=self.jobs, history=history)
            await self.clean()
        limits["insert"] = await insert_rows(self.dsn, queue=queue, rows=min(self.jobs, 50_000))
        limits["commits"] = await commits(self.dsn, connections=16, seconds=2)
        return limits

    async def drain(self, queue: int) -> float:
        """Jobs per second from a full queue to an empty one; each job runs exactly once."""
        await self.clean()
        await fill(self.dsn, queue=queue, jobs=self.jobs)
        seen.clear()
        before = await self.value("select pg_current_wal_lsn()::text")
        async with self.running():
            began = perf_counter()
            await self.until(lambda: self.value("select count(*) from chimpbase.job"), 0)
            seconds = perf_counter() - began
        if len(seen) != self.jobs or len(set(seen)) != self.jobs:
            raise RuntimeError(f"{self.jobs} jobs in, {len(seen)} runs of {len(set(seen))} jobs")
        wal = await self.value("select pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn)::float8", before)
        self.report.add("  WAL per job", wal / self.jobs, "bytes")
        return self.jobs / seconds

    async def transactional(self, limits: dict[str, float]) -> None:
        """Jobs with one update of their own, committed with their completion."""
        count = max(1000, self.jobs // 10)
        await self.clean()
        await self.value("drop table if exists bench_account")
        await self.value("create table bench_account (id int primary key, done int not null default 0)")
        await self.value("insert into bench_account select n, 0 from generate_series(1, $1::int) n", count)
        queue = await self.value("select id from chimpbase.queue where name = 'bench.write'")
        await self.value(
            "insert into chimpbase.job (id, sort, queue, payload) select id, id, $1, n::text from"
            " (select nextval('chimpbase.job_id') as id, n from generate_series(1, $2::int) n) as new",
            queue,
            count,
        )
        async with self.running(pool_size=32):
            began = perf_counter()
            await self.until(lambda: self.value("select count(*) from chimpbase.job"), 0)
            seconds = perf_counter() - began
        wrong = await self.value("select count(*) from bench_account where done <> 1")
        if wrong:
            raise RuntimeError(f"{wrong} of {count} jobs had their effect not exactly once")
        self.report.add(
            "transactional jobs with one update, exactly once",
            count / seconds,
            "/s",
            limit=limits["commits"],
            target=5000,
        )

    async def enqueue(self, callers: int, limits: dict[str, float]) -> None:
        """Durable single enqueues from that many callers at once."""
        count = min(self.jobs, 200 * callers if callers > 1 else 2000)
        await self.clean()
        async with self.running(workers=False):
            await self.app.ctx.queue.enqueue_many(noops, range(self.jobs // 2))
            began = perf_counter()
            await self.app.ctx.queue.enqueue_many(noops, range(self.jobs // 2))
            if callers == 1:
                rate = self.jobs // 2 / (perf_counter() - began)
                self.report.add("enqueue_many in one call", rate, "/s", limit=limits["insert"], target=120_000)
            await self.clean()

            async def call(share: int) -> None:
                for number in range(share):
                    await self.app.ctx.queue.enqueue(noops, number)

            began = perf_counter()
            await asyncio.gather(*(call(count // callers) for _ in range(callers)))
            seconds = perf_counter() - began
        stored = await self.value("select count(*) from chimpbase.job")
        if stored != count // callers * callers:
            raise RuntimeError(f"{count} jobs enqueued, {stored} stored")
        target = 40_000 if callers == 50 else None
        name = f"enqueue one at a time, {callers} callers"
        self.report.add(name, stored / seconds, "/s", limit=limits["insert"], target=target)

    async def latency(self) -> None:
        """From the call of enqueue to the start of the handler, in an idle process."""
        global woken  # noqa: PLW0603 - the handler has no other way to be heard
        await self.clean()
        figures: list[float] = []
        async with self.running():
            for number in range(200):
                woken = asyncio.Event()
                began = perf_counter()
                await self.app.ctx.queue.enqueue(noops, number)
                await woken.wait()
                figures.append((perf_counter() - began) * 1000)
        woken = None
        self.report.add("enqueue to start, idle, same process, p50", statistics.median(figures), "ms")
        self.report.add("enqueue to start, idle, same process, p99", statistics.quantiles(figures, n=100)[98], "ms")

    async def idle(self) -> None:
        """Statements per second of a process with nothing to do."""
        statements = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        async with self.running():
            await asyncio.sleep(3)
            before, began = await self.value(statements), perf_counter()
            await asyncio.sleep(8)
            after = await self.value(statements)
            self.report.add("transactions per second at idle", (after - before) / (perf_counter() - began), "/s")

    def running(self, **options: object):
        """The app on this server."""
        return self.app.running(database_url=self.dsn, project=self.directory, **options)

    async def clean(self) -> None:
        """Empty job tables, freshly vacuumed."""
        await self.value("truncate chimpbase.job, chimpbase.job_later, chimpbase.job_dead, chimpbase.job_done")

    async def value(self, sql: str, *args: object):
        """The first value of one statement on a connection of its own."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(sql, *args, timeout=300)
        finally:
            await connection.close()

    async def until(self, look: Callable[[], Awaitable[object]], wanted: object) -> None:
        """Until a look finds what is wanted."""
        while await look() != wanted:
            await asyncio.sleep(0.02)


async def main() -> None:
    """Run the suite and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="also write the raw figures there")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="chimpbase-bench-") as directory:
        async with await EmbeddedServer.start(Path(directory) / "pg", settings=SERVER) as server:
            await Bench(server.dsn, Path(directory), options.jobs, report).run()
            version = server.version
    console = Console()
    console.print(
        f"PostgreSQL {version}, Python {platform.python_version()}, {os.cpu_count()} cores, {options.jobs:,} jobs"
    )
    report.show(console)
    if options.json:
        options.json.write_text(json.dumps({"argv": sys.argv, "rows": report.rows}, indent=1))


if __name__ == "__main__":
    uvloop.run(main())
