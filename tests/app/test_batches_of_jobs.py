"""Batch workers: several jobs in one call and one transaction, and a poison one that does not take its mates along."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Cancel, Ctx, DeadLetter, Queue, Retry, Snooze, SyncCtx
from chimpbase.errors import UsageError
from chimpbase.testing import rehearse
from tests.running import Start, history, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

rows = Queue("rows", int)
QUICK = Retry(max_attempts=2, first=timedelta(milliseconds=10))


async def _filled(start: Start, outside: asyncpg.Connection, app: App, payloads: range) -> None:
    async with start(app):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue_many(rows, payloads)
        await until(lambda: is_idle(outside), deadline_s=20)


async def test_many_jobs_run_in_few_calls_and_transactions(start: Start, outside: asyncpg.Connection) -> None:
    app, sizes = App("batches"), list[int]()

    @app.worker(rows, batch=50, concurrency=1)
    async def ingest(ctx: Ctx, payloads: list[int]) -> None:
        assert [job.queue for job in ctx.jobs] == ["rows"] * len(payloads)
        sizes.append(len(payloads))
        await ctx.db.execute(
            "insert into ledger select pg_current_xact_id()::text, n::text from unnest($1::int[]) n", payloads
        )

    await _filled(start, outside, app, range(230))
    assert sorted(map(int, await notes(outside))) == list(range(230))
    assert await outside.fetchval("select count(distinct who) from ledger") == len(sizes)
    assert max(sizes) == 50
    assert {row["outcome"] for row in await history(outside, "job_done")} == {"completed"}


async def test_a_poison_job_dies_alone_and_the_others_end_at_once(start: Start, outside: asyncpg.Connection) -> None:
    app, tried = App("batches"), list[list[int]]()

    @app.worker(rows, batch=16, concurrency=1, retry=QUICK)
    async def ingest(ctx: Ctx, payloads: list[int]) -> None:
        tried.append(list(payloads))
        await ctx.db.execute("insert into ledger select 'row', n::text from unnest($1::int[]) n", payloads)
        if 7 in payloads:
            raise LookupError("seven")

    await _filled(start, outside, app, range(32))
    assert sorted(map(int, await notes(outside))) == [n for n in range(32) if n != 7]
    (dead,) = await history(outside, "job_dead")
    assert (dead["payload"], dead["attempt"] - dead["uncharged"]) == ("7", 2)
    assert {row["attempt"] for row in await history(outside, "job_done")} == {1}
    assert [7] in tried
    assert tried[-1] == [7]  # what failed before goes alone


async def test_a_payload_that_cannot_be_read_is_buried_alone(start: Start, outside: asyncpg.Connection) -> None:
    app = App("batches")

    @app.worker(rows, batch=10)
    async def ingest(ctx: Ctx, payloads: list[int]) -> None:
        await ctx.db.execute("insert into ledger select 'row', n::text from unnest($1::int[]) n", payloads)

    async with start(app):
        await outside.execute(
            "select chimpbase.enqueue('rows', case when n = 3 then '\"three\"' else to_jsonb(n) end)"
            " from generate_series(1, 6) n"
        )
        await until(lambda: is_idle(outside))
    assert sorted(await notes(outside)) == ["1", "2", "4", "5", "6"]
    assert [row["reason"] for row in await history(outside, "job_dead")] == ["unreadable"]


async def test_each_job_may_have_its_own_outcome(start: Start, outside: asyncpg.Connection) -> None:
    app = App("batches")

    @app.worker(rows, batch=10, concurrency=1)
    async def ingest(ctx: Ctx, payloads: list[int]) -> list[Cancel | DeadLetter | Snooze | None]:
        await ctx.db.execute("insert into ledger select 'row', n::text from unnest($1::int[]) n", payloads)
        outcomes: dict[int, Cancel | DeadLetter | Snooze] = {
            0: Cancel("no"),
            1: DeadLetter("bad"),
            2: Snooze(timedelta(days=1)),
        }
        return [outcomes.get(n) for n in payloads]

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue_many(rows, range(5))
        await until(lambda: outside.fetchval("select not exists (select 1 from chimpbase.job)"))
    assert sorted(row["outcome"] for row in await history(outside, "job_done")) == ["cancelled", *["completed"] * 2]
    assert [row["reason"] for row in await history(outside, "job_dead")] == ["rejected"]
    assert await outside.fetchval("select count(*) from chimpbase.job_later") == 1


async def test_a_batch_that_touches_nothing_is_settled_too(start: Start, outside: asyncpg.Connection) -> None:
    app, seen = App("batches"), list[int]()

    @app.worker(rows, batch=20)
    def ingest(ctx: SyncCtx, payloads: list[int]) -> None:
        seen.extend(payloads)

    await _filled(start, outside, app, range(100))
    assert sorted(seen) == list(range(100))
    assert len(await history(outside, "job_done")) == 100


async def test_a_wrong_answer_is_a_failure_of_each(start: Start, outside: asyncpg.Connection) -> None:
    app = App("batches")

    @app.worker(rows, batch=4, retry=Retry(max_attempts=1))
    async def ingest(ctx: Ctx, payloads: list[int]) -> list[int]:
        return payloads

    await _filled(start, outside, app, range(4))
    assert len(await history(outside, "job_dead")) == 4


async def test_cancelling_one_job_gives_its_mates_back(start: Start, outside: asyncpg.Connection) -> None:
    app, started, sizes = App("batches"), asyncio.Event(), list[int]()

    @app.worker(rows, batch=10, concurrency=1)
    async def ingest(ctx: Ctx, payloads: list[int]) -> None:
        sizes.append(len(payloads))
        if 3 in payloads:
            started.set()
            await asyncio.Event().wait()
        await ctx.db.execute("insert into ledger select 'row', n::text from unnest($1::int[]) n", payloads)

    async with start(app):
        async with app.transaction() as ctx:
            handles = await ctx.queue.enqueue_many(rows, range(6))
        await started.wait()
        async with app.transaction() as ctx:
            await ctx.queue.cancel(handles[3])
        await until(lambda: is_idle(outside))
    assert sorted(map(int, await notes(outside))) == [0, 1, 2, 4, 5]
    outcomes = {row["payload"]: row["outcome"] for row in await history(outside, "job_done")}
    assert outcomes.pop("3") == "cancelled"
    assert set(outcomes.values()) == {"completed"}
    assert {row["attempt"] for row in await history(outside, "job_done") if row["payload"] != "3"} == {1}


async def test_a_batch_too_slow_is_charged_to_all(start: Start, outside: asyncpg.Connection) -> None:
    app = App("batches")

    @app.worker(rows, batch=5, timeout=0.05, retry=Retry(max_attempts=1))
    async def ingest(ctx: Ctx, payloads: list[int]) -> None:
        await asyncio.Event().wait()

    await _filled(start, outside, app, range(5))
    assert ["took longer" in str(row["errors"]) for row in await history(outside, "job_dead")] == [True] * 5


async def test_a_rehearsal_runs_batches_job_by_job() -> None:
    app, seen = App("batches"), list[list[int]]()

    @app.worker(rows, batch=5)
    async def ingest(ctx: Ctx, payloads: list[int]) -> None:
        seen.append(payloads)
        with pytest.raises(UsageError, match=r"ctx\.jobs"):
            _ = ctx.job

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue_many(rows, [1, 2])
        assert (await t.drain(raising=True)).completed == 2
    assert seen == [[1], [2]]


def test_what_a_batch_worker_must_be() -> None:
    app = App("batches")
    for wrong in (0, 1, -1, 10_001, True, 2.5, "2"):
        with pytest.raises(UsageError, match="batch must be"):
            app.worker(rows, batch=wrong)(_noop)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="must be a list"):

        @app.worker(rows, batch=2)  # type: ignore[arg-type]
        async def one(ctx: Ctx, payload: int) -> None: ...

    with pytest.raises(UsageError, match="must be a list"):

        @app.worker("named", batch=2)
        async def another(ctx: Ctx, payload: int) -> None: ...

    @app.worker("typed", batch=2)
    async def good(ctx: Ctx, payloads: list[int]) -> None: ...

    assert good.queue.type is int


async def _noop(ctx: Ctx, payloads: list[int]) -> None: ...
