"""Three-step workflows per second, at 1, 50 and 500 in flight, every step durable.

    .venv/bin/python -m bench.workflows [--runs 5000]

Starts a PostgreSQL of its own (fsync on) and counts every step in and out: a lost or doubled step fails the run. Ratios
within one run are what to read; the absolute figures belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from chimpbase import App, Ctx, Wf, step, workflow
from chimpbase._pg.embedded import EmbeddedServer

SERVER = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200"}
done: Counter[tuple[int, int]] = Counter()


@step
async def one(ctx: Ctx, number: int) -> int:
    """Counts itself."""
    done[number, 1] += 1
    return number


@step
async def two(ctx: Ctx, number: int) -> int:
    """Counts itself."""
    done[number, 2] += 1
    return number


@step
async def three(ctx: Ctx, number: int) -> int:
    """Counts itself."""
    done[number, 3] += 1
    return number


@workflow("bench", concurrency=500)
async def flow(wf: Wf, number: int) -> int:
    """Three steps, one after another."""
    return await three(wf, await two(wf, await one(wf, number)))


async def measure(dsn: str, project: Path, *, runs: int, at_once: int) -> tuple[float, float]:
    """Workflows per second from start to end with `at_once` in flight, and the median latency in milliseconds."""
    done.clear()
    app = App("bench", register=[flow])
    took: list[float] = []
    numbers = iter(range(runs))
    async with app.running(database_url=dsn, project=project, log_level="error"):
        client = app.ctx.workflow

        async def keep_going() -> None:
            for number in numbers:
                began = perf_counter()
                run = await client.start(flow, number)
                if await run.result(timeout=60) != number:
                    raise RuntimeError(f"run {number} has another result")
                took.append(perf_counter() - began)

        began = perf_counter()
        await asyncio.gather(*(keep_going() for _ in range(at_once)))
        seconds = perf_counter() - began
    await count(dsn, runs)
    return runs / seconds, statistics.median(took) * 1e3


async def drain(dsn: str, project: Path, *, runs: int) -> float:
    """Workflows per second from a full queue to an empty one, 500 in flight."""
    done.clear()
    app = App("bench", register=[flow])
    async with app.running(database_url=dsn, project=project, workers=False):
        pass
    connection = await asyncpg.connect(dsn)
    await connection.execute("truncate chimpbase.run, chimpbase.step, chimpbase.job, chimpbase.job_done")
    await connection.execute(
        "select chimpbase.start_workflow('bench', to_jsonb(n)) from generate_series(0, $1::int - 1) n", runs
    )
    async with app.running(database_url=dsn, project=project, log_level="error"):
        began = perf_counter()
        while await connection.fetchval("select exists (select from chimpbase.run where finished_at is null)"):
            await asyncio.sleep(0.02)
        seconds = perf_counter() - began
    await connection.close()
    await count(dsn, runs)
    return runs / seconds


async def count(dsn: str, runs: int) -> None:
    """Every step ran once and is in the journal; every run completed."""
    connection = await asyncpg.connect(dsn)
    steps = await connection.fetchval("select count(*) from chimpbase.step")
    ended = await connection.fetchval("select count(*) from chimpbase.run where state = 'completed'")
    await connection.execute("truncate chimpbase.run, chimpbase.step, chimpbase.job, chimpbase.job_done")
    await connection.close()
    if steps != 3 * runs or ended != runs or len(done) != 3 * runs or set(done.values()) != {1}:
        raise RuntimeError(f"{runs} runs in: {ended} ended, {steps} steps written, {done.total()} steps run")


async def main(runs: int) -> None:
    """Every workload, in order."""
    table = Table("workload", "workflows/s", "median from start to end")
    with tempfile.TemporaryDirectory() as place:
        project = Path(place)
        server = await EmbeddedServer.start(project / "pg", settings=SERVER)
        try:
            for at_once in (1, 50, 500):
                some = runs if at_once > 1 else max(100, runs // 20)
                rate, latency = await measure(server.dsn, project, runs=some, at_once=at_once)
                table.add_row(f"start to end, {at_once} in flight", f"{rate:,.0f}", f"{latency:.1f} ms")
            table.add_row("from a full queue, 500 in flight", f"{await drain(server.dsn, project, runs=runs):,.0f}", "")
        finally:
            await server.stop()
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5000)
    uvloop.run(main(parser.parse_args().runs))
