"""A lane gives back what waits too long, sees soon what stands before its hint, and keeps its slots."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue
from tests.running import Start, history, is_idle, notes, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)


async def test_jobs_that_waited_a_second_for_a_slot_go_back(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, gate = App("stale"), list[int](), asyncio.Event()

    @app.worker(jobs, concurrency=1)
    async def work(ctx: Ctx, n: int) -> None:
        if n == 500:
            await gate.wait()
        seen.append(n)

    async with start(app):
        # quick ones first, so that many are leased ahead; then one that is not quick at all
        await app.ctx.queue.enqueue_many(jobs, range(600))
        await until(lambda: len(seen) == 500)
        free = "select count(*) from chimpbase.job where process is null"
        await until(lambda: the_value(outside, f"select ({free}) = 99"))
        await until(lambda: the_value(outside, "select count(*) = 1 from chimpbase.job where process is not null"))
        gate.set()
        await until(lambda: is_idle(outside))
    assert sorted(seen) == list(range(600))
    assert {row["attempt"] for row in await history(outside, "job_done")} == {1}


async def test_an_urgent_job_is_found_while_a_backlog_is_worked(start: Start, outside: asyncpg.Connection) -> None:
    app, seen = App("urgent"), list[int]()

    @app.worker(jobs, concurrency=2)
    async def work(ctx: Ctx, n: int) -> None:
        seen.append(n)
        await ctx.db.execute("select pg_sleep(0.002)")

    async with start(app):
        await app.ctx.queue.enqueue_many(jobs, range(4000))
        await until(lambda: len(seen) > 200)
        # from elsewhere, so that nobody here is told of it
        await outside.execute("""select chimpbase.enqueue('jobs', '-1', '{"priority": -10}')""")
        since = len(seen)
        await until(lambda: -1 in seen)
        assert seen.index(-1) - since < 2000
        await outside.execute("truncate chimpbase.job")


async def test_a_job_whose_transaction_commits_late_is_found(start: Start, outside: asyncpg.Connection) -> None:
    app, seen = App("late"), list[int]()

    @app.worker(jobs, concurrency=2)
    async def work(ctx: Ctx, n: int) -> None:
        seen.append(n)

    async with start(app):
        async with outside.transaction():
            await outside.execute("select chimpbase.enqueue('jobs', '-1')")
            await app.ctx.queue.enqueue_many(jobs, range(500))
            await until(lambda: len(seen) == 500)
        await until(lambda: -1 in seen, deadline_s=3)


async def test_slots_whose_handlers_cancel_themselves_go_on(start: Start, outside: asyncpg.Connection) -> None:
    app, seen = App("selfish"), list[int]()

    @app.worker(jobs, concurrency=2, transaction=False)
    async def work(ctx: Ctx, n: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if n < 20:
            task.cancel()  # it hits whatever the slot waits for next
        seen.append(n)

    async with start(app):
        await app.ctx.queue.enqueue_many(jobs, range(40))
        await until(lambda: {*range(20, 40)} <= {*seen})
        await until(lambda: is_idle(outside))
    assert sorted(set(seen)) == list(range(40))


async def test_after_a_lost_lease_the_next_suspect_may_run(start: Start, outside: asyncpg.Connection) -> None:
    app, gate = App("suspects"), asyncio.Event()

    @app.worker(jobs, concurrency=2)
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('begun', $1)", str(n))
        if n == 1:
            await gate.wait()

    async with start(app, lease=timedelta(seconds=1)) as runtime:
        await make_suspect(outside, 1)
        await until(lambda: the_value(outside, "select count(*) = 1 from chimpbase.job where process is not null"))
        engine = runtime._backstage.engine  # type: ignore[union-attr]
        was = engine.process
        await outside.execute("update chimpbase.process set dead_at = now()")
        await until(lambda: engine.process != was)
        await make_suspect(outside, 2)
        await until(lambda: is_idle(outside))
    assert await notes(outside) == ["2"]


async def make_suspect(outside: asyncpg.Connection, n: int) -> None:
    """A job that is one crash away from the dead letters."""
    async with outside.transaction():
        await outside.execute("select chimpbase.enqueue('jobs', to_jsonb($1::int))", n)
        await outside.execute("update chimpbase.job set crashes = 2 where process is null")
