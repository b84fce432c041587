"""Plain mode and plain functions: each statement by itself, and handlers in threads."""

from __future__ import annotations

import threading
from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, Occurrence, Queue, Retry, SyncCtx, step
from tests.running import Start, history, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)
follow = Queue("follow", int)


async def test_in_plain_mode_each_statement_commits_by_itself(
    start: Start, dsn: str, outside: asyncpg.Connection
) -> None:
    app = App("plain")
    seen: list[list[str]] = []
    called: list[str] = []

    @app.worker(jobs, transaction=False, retry=Retry(max_attempts=2, first=timedelta(0)))
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('worker', $1)", f"attempt {ctx.job.attempt}")
        ctx.on_commit(lambda: called.append(f"attempt {ctx.job.attempt}"))
        seen.append(await notes(other))
        await ctx.queue.enqueue(follow, n)
        if ctx.job.attempt == 1:
            raise ValueError

    @app.worker(follow)
    async def on_follow(ctx: Ctx, n: int) -> None: ...

    other = await asyncpg.connect(dsn)
    async with start(app):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(jobs, 1)
        await until(lambda: is_idle(outside))
        # at least once: what the failed attempt did stays
        assert seen == [["attempt 1"], ["attempt 1", "attempt 2"]]
        assert called == ["attempt 1", "attempt 2"]
        assert [row["name"] for row in await history(outside, "job_done")] == ["jobs", "follow", "follow"]
    await other.close()


async def test_an_action_called_in_plain_mode_is_a_transaction_of_its_own(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("plain")

    @app.action
    async def write_twice(ctx: Ctx, fails: bool) -> None:
        await ctx.db.execute("insert into ledger values ('action', $1)", f"first {fails}")
        if fails:
            raise ZeroDivisionError
        await ctx.db.execute("insert into ledger values ('action', $1)", f"second {fails}")

    @app.worker(jobs, transaction=False)
    async def work(ctx: Ctx, n: int) -> None:
        await write_twice(ctx, fails=False)
        with pytest.raises(ZeroDivisionError):
            await write_twice(ctx, fails=True)

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(jobs, 1)
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["first False", "second False"]


async def test_sync_handlers_of_every_kind_run_in_threads(start: Start, outside: asyncpg.Connection) -> None:
    app = App("sync")
    threads: set[str] = set()

    def note(ctx: SyncCtx, text: str) -> None:
        threads.add(threading.current_thread().name)
        ctx.db.execute("insert into ledger values ('sync', $1)", text)

    @app.worker(jobs, retry=Retry(first=timedelta(0)))
    def work(ctx: SyncCtx, n: int) -> None:
        note(ctx, f"job {n}")
        ctx.pubsub.publish("happened", n)
        if ctx.job.attempt == 1:
            raise ValueError

    @app.subscribe("happened")
    def on_happened(ctx: SyncCtx, n: int) -> None:
        note(ctx, f"event {n}")

    @app.cron("* * * * * *")
    def tick(ctx: SyncCtx, due: Occurrence) -> None:
        note(ctx, "tick")

    async with start(app):
        async with app.transaction() as ctx:
            for n in range(5):
                await ctx.queue.enqueue(jobs, n)
        await until(lambda: has(outside, 10))
        await until(lambda: has_ticked(outside))
        written = [note for note in await notes(outside) if note != "tick"]
        assert sorted(written) == sorted(f"{kind} {n}" for kind in ("job", "event") for n in range(5))
        assert threading.main_thread().name not in threads


@step
async def noted(ctx: Ctx, n: int, *, twice: bool = False) -> int:
    await ctx.db.execute("insert into ledger values ('step', $1)", str(n))
    if n < 0:
        raise ValueError(n)
    return n * 2 if twice else n


@step
def plainly_noted(ctx: SyncCtx, n: int) -> int:
    return noted(ctx, n, twice=True)


async def test_a_plain_function_runs_steps_in_its_transaction_by_calling_them(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("plain")

    @app.action
    def count(ctx: SyncCtx, n: int) -> list[int]:
        with pytest.raises(ValueError, match="-1"):
            noted(ctx, -1)
        return [noted(ctx, n), plainly_noted(ctx, n)]

    async with start(app, workers=False):
        assert await app.call(count, 3) == [3, 6]
        assert await notes(outside) == ["3", "3"]


async def test_everything_works_by_polling_alone(start: Start, outside: asyncpg.Connection) -> None:
    producer, consumer = App("producer", register=[jobs]), App("consumer")

    @consumer.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('worker', $1)", str(n))

    async with start(producer, notify=False, workers=False), start(consumer, notify=False):
        listening = "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'"
        assert await outside.fetchval(listening) == 0
        for n in range(3):
            async with producer.transaction() as ctx:
                await ctx.queue.enqueue(jobs, n, delay=0.05 if n == 2 else None)
            await until(lambda n=n: has(outside, n + 1), deadline_s=2)


async def test_a_commit_elsewhere_wakes_an_idle_process_at_once(start: Start, outside: asyncpg.Connection) -> None:
    producer, consumer = App("producer", register=[jobs]), App("consumer")

    @consumer.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('worker', $1)", str(n))

    async with start(producer, workers=False, poll=60), start(consumer, poll=60):
        async with producer.transaction() as ctx:
            await ctx.queue.enqueue(jobs, 1)
        await until(lambda: has(outside, 1), deadline_s=5)


async def has(outside: asyncpg.Connection, n: int) -> bool:
    return len([note for note in await notes(outside) if note != "tick"]) >= n


async def has_ticked(outside: asyncpg.Connection) -> bool:
    return "tick" in await notes(outside)
