"""Cancellation: of jobs that wait, of jobs that run, and of those that were on their way in between."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue, Retry, SyncCtx, Wf, errors, worker, workflow
from tests.running import Start, errors_of, history, is_idle, left_over, notes, the_row, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

mail = Queue("mail", int)


class Gate:
    """Lets a test hold a handler, and know that it is held."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()


async def test_a_job_that_waits_is_cancelled_at_once_and_its_reason_is_kept(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        async with runtime.transaction() as ctx:
            ready, later = await ctx.queue.enqueue(mail, 1), await ctx.queue.enqueue(mail, 2, delay=3600)
        async with runtime.transaction() as ctx:
            assert await ctx.queue.cancel(ready, reason="ordered twice") == "cancelled"
            assert await ctx.queue.cancel(later) == "cancelled"
        assert await is_idle(outside)
        first, second = await history(outside, "job_done")
        assert (first["outcome"], second["outcome"]) == ("cancelled", "cancelled")
        assert errors_of(first) == [(0, "Cancelled", "ordered twice")]
        assert errors_of(second) == [(0, "Cancelled", "no reason given")]
        assert await runtime.ctx.queue.cancel(ready) == "ended"


async def test_a_job_behind_a_gate_is_cancelled(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        await outside.execute("insert into chimpbase.gate (queue) select id from chimpbase.queue where name = 'mail'")
        job = await runtime.ctx.queue.enqueue(mail, 1)
        assert await the_value(outside, "select count(*) from chimpbase.job_wait") == 1
        assert await runtime.ctx.queue.cancel(job) == "cancelled"
        assert await the_value(outside, "select count(*) from chimpbase.job_wait") == 0
        assert [row["outcome"] for row in await history(outside, "job_done")] == ["cancelled"]


async def test_a_cancellation_that_is_rolled_back_leaves_the_job(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        job = await runtime.ctx.queue.enqueue(mail, 1)
        with pytest.raises(RuntimeError):
            async with runtime.transaction() as ctx:
                await ctx.queue.cancel(job)
                raise RuntimeError
        assert await left_over(outside) == {"job": 1}


async def test_a_job_can_be_cancelled_in_the_transaction_that_enqueued_it(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        async with runtime.transaction() as ctx:
            assert await ctx.queue.cancel(await ctx.queue.enqueue(mail, 1)) == "cancelled"
        assert await left_over(outside) == {}


async def test_a_running_job_is_cancelled_at_its_next_await_and_its_writes_are_taken_back(
    start: Start, outside: asyncpg.Connection
) -> None:
    gate, seen = Gate(), list[BaseException]()

    @worker(mail)
    async def send(ctx: Ctx, number: int) -> None:
        await ctx.db.execute("insert into ledger (note) values ('sent')")
        gate.entered.set()
        try:
            await gate.open.wait()
        except BaseException as error:
            seen.append(error)
            raise

    async with start(App("a", register=[send])) as runtime:
        job = await runtime.ctx.queue.enqueue(mail, 1)
        await asyncio.wait_for(gate.entered.wait(), 5)
        assert await runtime.ctx.queue.cancel(job, reason="no longer wanted") == "requested"
        await until(lambda: is_idle(outside))
        assert isinstance(seen[0], asyncio.CancelledError)
        assert await notes(outside) == []
        (done,) = await history(outside, "job_done")
        assert (done["outcome"], done["attempt"]) == ("cancelled", 1)
        assert errors_of(done) == [(1, "Cancelled", "no longer wanted")]
        assert await the_value(outside, "select count(*) from chimpbase.job_cancel") == 0
        # the slot it had is free again
        gate.open.set()
        await runtime.ctx.queue.enqueue(mail, 2)
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["sent"]


async def test_a_job_that_runs_in_another_process_hears_of_it_without_notifications(
    start: Start, outside: asyncpg.Connection
) -> None:
    gate = Gate()

    @worker(mail, transaction=False)
    async def send(ctx: Ctx, number: int) -> None:
        gate.entered.set()
        await gate.open.wait()

    async with start(App("works", register=[send]), notify=False):
        async with start(App("asks", register=[mail]), workers=False, notify=False) as other:
            job = await other.ctx.queue.enqueue(mail, 1)
            await asyncio.wait_for(gate.entered.wait(), 5)
            assert await other.ctx.queue.cancel(job) == "requested"
        await until(lambda: is_idle(outside), deadline_s=3)
        assert [row["outcome"] for row in await history(outside, "job_done")] == ["cancelled"]


async def test_a_plain_function_gets_an_error_from_its_next_verb(start: Start, outside: asyncpg.Connection) -> None:
    entered, go_on, raised = threading.Event(), threading.Event(), list[BaseException]()

    @worker(mail)
    def send(ctx: SyncCtx, number: int) -> None:
        ctx.db.execute("insert into ledger (note) values ('first')")
        entered.set()
        go_on.wait(10)
        try:
            ctx.db.execute("insert into ledger (note) values ('second')")
        except BaseException as error:
            raised.append(error)
            raise

    async with start(App("a", register=[send])) as runtime:
        job = await runtime.ctx.queue.enqueue(mail, 1)
        await until(entered.is_set)
        await runtime.ctx.queue.cancel(job)
        await until(lambda: is_idle(outside))
        go_on.set()
        await until(lambda: raised)
        assert isinstance(raised[0], errors.UsageError)
        assert await notes(outside) == []
        assert [row["outcome"] for row in await history(outside, "job_done")] == ["cancelled"]


async def test_a_handler_that_swallows_its_cancellation_ends_as_it_says(
    start: Start, outside: asyncpg.Connection
) -> None:
    gate = Gate()

    @worker(mail)
    async def send(ctx: Ctx, number: int) -> None:
        gate.entered.set()
        try:
            await gate.open.wait()
        except asyncio.CancelledError:
            await ctx.db.execute("insert into ledger (note) values ('all the same')")

    async with start(App("a", register=[send])) as runtime:
        job = await runtime.ctx.queue.enqueue(mail, 1)
        await asyncio.wait_for(gate.entered.wait(), 5)
        await runtime.ctx.queue.cancel(job)
        await until(lambda: is_idle(outside))
        assert [row["outcome"] for row in await history(outside, "job_done")] == ["completed"]
        assert await notes(outside) == ["all the same"]

        async def forgotten() -> bool:
            return not await outside.fetchval("select count(*) from chimpbase.job_cancel")

        await until(forgotten)


async def test_a_request_for_an_attempt_that_fails_meanwhile_holds_for_the_job(
    start: Start, outside: asyncpg.Connection
) -> None:
    """The row says which attempt was meant; when that failed and was put off, the job must not run again."""
    runs = list[int]()

    @worker(mail, retry=Retry(max_attempts=5, first=timedelta(hours=1)), transaction=False)
    async def send(ctx: Ctx, number: int) -> None:
        runs.append(number)
        # committed at once; the attempt fails before anybody can hear of it
        assert await ctx.queue.cancel(ctx.job.id, reason="outside") == "requested"
        raise RuntimeError("failed meanwhile")

    async with start(App("a", register=[send])) as runtime:
        await runtime.ctx.queue.enqueue(mail, 1)
        await until(lambda: is_idle(outside))
        (done,) = await history(outside, "job_done")
        assert done["outcome"] == "cancelled"
        assert [kind for _, kind, _ in errors_of(done)] == ["RuntimeError", "Cancelled"]
        assert runs == [1]


async def test_a_request_outlives_the_process_that_ran_the_job(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        job = await runtime.ctx.queue.enqueue(mail, 1)
    dead = await the_value(
        outside,
        "insert into chimpbase.process (app, host, pid, version, lease, dead_at) "
        "values ('a', 'gone', 1, '1', interval '1 s', now()) returning id",
    )
    await outside.execute("update chimpbase.job set process = $1, attempt = 1 where id = $2", dead, job)
    assert await the_value(outside, "select chimpbase.cancel($1)", job) == "requested"

    @worker(mail)
    async def send(ctx: Ctx, number: int) -> None:
        await ctx.db.execute("insert into ledger (note) values ('ran')")
        await asyncio.Event().wait()

    async with start(App("a", register=[send])):
        await until(lambda: is_idle(outside))
        (done,) = await history(outside, "job_done")
        assert done["outcome"] == "cancelled"
        assert await notes(outside) == []


async def test_cancelling_while_jobs_are_claimed_and_put_off_loses_none(
    start: Start, outside: asyncpg.Connection
) -> None:
    """Jobs that move all the time, and a canceller that meets them anywhere: each ends cancelled, none runs on."""

    @worker(mail, retry=Retry(max_attempts=1000, first=timedelta(seconds=0), jitter=0), concurrency=4)
    async def send(ctx: Ctx, number: int) -> None:
        raise RuntimeError("again")

    async with start(App("a", register=[send])) as runtime:
        jobs = [await runtime.ctx.queue.enqueue(mail, number) for number in range(40)]
        answers = await asyncio.gather(*(runtime.ctx.queue.cancel(job) for job in jobs))
        assert set(answers) <= {"cancelled", "requested"}
        await until(lambda: is_idle(outside), deadline_s=20)
        done = await history(outside, "job_done")
        assert [row["id"] for row in done] == sorted(jobs)
        assert {row["outcome"] for row in done} == {"cancelled"}
        assert await left_over(outside) == {}


async def test_an_activation_is_refused_with_the_verb_that_is_meant(start: Start, outside: asyncpg.Connection) -> None:
    @workflow("checkout")
    async def checkout(wf: Wf) -> None:
        await wf.sleep(timedelta(hours=1))

    async with start(App("a", register=[checkout])) as runtime:
        await runtime.ctx.workflow.start(checkout, id="order-1")

        async def sleeping() -> Any:
            return await outside.fetchval("select id from chimpbase.job_later")

        job = await until(sleeping)
        with pytest.raises(errors.UsageError, match=r"ctx\.workflow\.cancel"):
            await runtime.ctx.queue.cancel(job)
        with pytest.raises(asyncpg.PostgresError, match="activation"):
            await outside.fetchval("select chimpbase.cancel($1)", job)
        assert await left_over(outside) == {"job_later": 1, "run": 1}


async def test_an_unknown_job_is_not_found_and_wrong_ids_and_reasons_are_refused(start: Start) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        with pytest.raises(errors.NotFound):
            await runtime.ctx.queue.cancel(12345)
        wrong_ids: list[Any] = [0, -1, True, "7", None, 1.0, 2**63, float("nan")]
        for wrong in wrong_ids:
            with pytest.raises(errors.UsageError):
                await runtime.ctx.queue.cancel(wrong)
        wrong_reasons: list[Any] = ["", "  ", 7, b"x"]
        for wrong in wrong_reasons:
            with pytest.raises(errors.UsageError):
                await runtime.ctx.queue.cancel(1, reason=wrong)


async def test_reasons_that_cannot_be_stored_are_mended(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        job = await runtime.ctx.queue.enqueue(mail, 1)
        await runtime.ctx.queue.cancel(job, reason="a\0b\ud800" + "x" * 10_000)
        (done,) = await history(outside, "job_done")
        assert errors_of(done)[0][2].startswith("a\ufffdb\ufffdxxx")


async def test_a_handler_with_a_sync_ctx_cancels_too(start: Start, outside: asyncpg.Connection) -> None:
    @worker(mail)
    def send(ctx: SyncCtx, other: int) -> None:
        assert ctx.queue.cancel(other, reason="sync") == "cancelled"

    async with start(App("a", register=[send])) as runtime:
        later = await runtime.ctx.queue.enqueue(mail, 0, delay=3600)
        await runtime.ctx.queue.enqueue(mail, later)
        await until(lambda: is_idle(outside))
        row = await the_row(outside, "select outcome from chimpbase.job_done where id = $1", later)
        assert row["outcome"] == "cancelled"
