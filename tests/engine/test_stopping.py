"""Stopping: what runs may end, what does not end is given back, and a stop never hangs."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from time import monotonic

import asyncpg
import pytest

import chimpbase
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


async def test_a_plain_handler_that_hangs_does_not_keep_the_program_from_its_end(dsn: str, tmp_path: Path) -> None:
    program = tmp_path / "hang.py"
    program.write_text("""
import asyncio, sys, threading
from chimpbase import App, SyncCtx

app, begun = App("hang"), threading.Event()

@app.worker("hang")
def hang(ctx: SyncCtx, n: int) -> None:
    begun.set()
    threading.Event().wait()

async def main() -> None:
    async with app.running(database_url=sys.argv[1], grace=0.2) as runtime:
        async with app.transaction() as ctx:
            await ctx.queue.enqueue("hang", 1)
        while not begun.is_set():
            await asyncio.sleep(0.01)

asyncio.run(main())
print("ended")
""")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        dsn,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(chimpbase.__file__).parents[1])},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 15)
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, said) == (0, b"ended\n")
