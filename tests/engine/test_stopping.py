"""Stopping: what runs may end, what does not end is given back, and a stop never hangs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from time import monotonic

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue
from tests.running import Start, history, is_idle, notes, the_row
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)


async def enqueue(app: App, *payloads: int) -> None:
    async with app.transaction() as ctx:
        for payload in payloads:
            await ctx.queue.enqueue(jobs, payload)


async def test_running_jobs_end_within_the_grace(start: Start, outside: asyncpg.Connection) -> None:
    app = App("grace")
    begun, stopping = asyncio.Event(), asyncio.Event()

    @app.worker(jobs, concurrency=1)
    async def work(ctx: Ctx, n: int) -> None:
        begun.set()
        await stopping.wait()
        await ctx.db.execute("insert into ledger values ('worker', $1)", str(n))

    async with start(app, grace=timedelta(seconds=10)):
        await enqueue(app, 1, 2)
        await begun.wait()
        asyncio.get_running_loop().call_later(0.1, stopping.set)
        began = monotonic()
    assert monotonic() - began < 5
    assert await notes(outside) == ["1"]
    # the second was never begun
    assert tuple(await the_row(outside, "select attempt, process from chimpbase.job")) == (0, None)


@pytest.mark.parametrize("swallows", [False, True], ids=["cancelled", "swallows its cancellation"])
async def test_what_outlives_the_grace_runs_again_elsewhere(
    start: Start, outside: asyncpg.Connection, swallows: bool
) -> None:
    app, other = App("first"), App("second")
    begun, release = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[None] | None] = []

    @app.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        tasks.append(asyncio.current_task())
        await ctx.db.execute("insert into ledger values ('first', 'never')")
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise

    @other.worker(jobs)
    async def work_elsewhere(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('second', $1)", f"attempt {ctx.job.attempt}")

    try:
        async with start(app, grace=timedelta(seconds=0.1)):
            await enqueue(app, 1)
            await begun.wait()
            began = monotonic()
        assert monotonic() - began < 4
        async with start(other):
            await until(lambda: is_idle(outside))
            # the one that could not be given back was taken from a process that had gone
            wanted = ["attempt 2" if swallows else "attempt 1"]
            assert await notes(outside) == wanted
            release.set()
            await asyncio.wait([task for task in tasks if task])
            assert await notes(outside) == wanted
        assert await outside.fetchval("select count(*) from chimpbase.process") == 0
    finally:
        release.set()


async def test_a_stop_in_the_middle_of_many_jobs_loses_none(start: Start, outside: asyncpg.Connection) -> None:
    app = App("middle")

    @app.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('worker', $1)", str(n))

    async with start(app, workers=False):
        await outside.execute("select chimpbase.enqueue('jobs', to_jsonb(n)) from generate_series(1, 300) n")
    for _ in range(5):
        async with start(app, grace=timedelta(0)):
            before = len(await notes(outside))
            await until(lambda before=before: more(outside, before))
        assert await outside.fetchval("select count(*) from chimpbase.job where process is not null") == 0
    async with start(app):
        await until(lambda: is_idle(outside))
    assert sorted(map(int, await notes(outside))) == list(range(1, 301))
    assert {row["attempt"] for row in await history(outside, "job_done")} == {1}


async def test_an_app_can_run_again_after_it_stopped(start: Start, outside: asyncpg.Connection) -> None:
    app = App("again")

    @app.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('worker', $1)", str(n))

    for n in range(3):
        async with start(app):
            await enqueue(app, n)
            await until(lambda: is_idle(outside))
    assert await notes(outside) == ["0", "1", "2"]


async def more(outside: asyncpg.Connection, before: int) -> bool:
    return len(await notes(outside)) > before
