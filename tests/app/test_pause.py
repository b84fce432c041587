"""Pause and resume: of any queue, with who and why, heard by what runs already."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Occurrence, Queue, SyncCtx, Wf, cron, errors, subscribe, worker, workflow
from tests.running import Start, is_idle, left_over, notes, the_row, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

mail = Queue("mail", int)
placed = Event("placed", int)


@worker(mail)
async def send(ctx: Ctx, number: int) -> None:
    await ctx.db.execute("insert into ledger (note) values ($1)", str(number))


@subscribe(placed)
async def audit(ctx: Ctx, number: int) -> None:
    await ctx.db.execute("insert into ledger (note) values ('audited')")


@cron("0 0 1 1 *")
async def report(ctx: Ctx, due: Occurrence) -> None: ...


@workflow("checkout", version=2)
async def checkout(wf: Wf) -> None: ...


async def test_a_paused_queue_hands_out_nothing_and_says_who_and_why(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("shop", register=[send])) as runtime:
        async with runtime.transaction() as ctx:
            await ctx.queue.pause(send, reason="the provider is down")
        await runtime.ctx.queue.pause("mail", reason="a second reason", by="somebody else")
        row = await the_row(outside, "select * from chimpbase.queue where name = 'mail'")
        assert (row["paused_by"], row["pause_reason"]) == ("app:shop", "the provider is down")
        assert row["paused_at"] is not None
        await runtime.ctx.queue.enqueue(mail, 1)
        assert await left_over(outside) == {"job": 1}
        await runtime.ctx.queue.resume(mail)
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["1"]
        row = await the_row(outside, "select * from chimpbase.queue where name = 'mail'")
        assert (row["paused_at"], row["paused_by"], row["pause_reason"]) == (None, None, None)


async def test_jobs_that_are_leased_but_have_not_begun_are_given_back(
    start: Start, outside: asyncpg.Connection
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    @worker("slow", concurrency=1)
    async def slow(ctx: Ctx, number: int) -> None:
        if number == 500:
            running.set()
            await go_on.wait()

    async with start(App("a", register=[slow])) as runtime:
        async with runtime.transaction() as ctx:
            await ctx.queue.enqueue_many(slow, range(2000))
        await asyncio.wait_for(running.wait(), 10)
        await runtime.ctx.queue.pause(slow)

        async def only_the_running_one_is_held() -> bool:
            return await the_value(outside, "select count(*) = 1 from chimpbase.job where process is not null")

        # sooner than what the lane gives back by itself, because it waited too long
        await until(only_the_running_one_is_held, deadline_s=0.9)
        go_on.set()

        async def none_is_held() -> bool:
            return not await outside.fetchval("select count(*) from chimpbase.job where process is not null")

        await until(none_is_held)
        assert await the_value(outside, "select count(*) from chimpbase.job") > 1000
        assert await outside.fetchval("select count(*) from chimpbase.job where attempt <> uncharged") == 0
        await runtime.ctx.queue.resume(slow)
        await until(lambda: is_idle(outside))


async def test_every_kind_of_queue_can_be_paused(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[send, audit, report, checkout])) as runtime:
        queues: list[Any] = [audit, report, checkout, "mail"]
        for queue in queues:
            await runtime.ctx.queue.pause(queue)
        rows = await outside.fetch("select name from chimpbase.queue where paused_at is not null order by name")
        assert [row["name"] for row in rows] == ["cron:report", "mail", "subscription:audit", "workflow:checkout@2"]
        await runtime.ctx.pubsub.publish(placed, 1)
        assert await left_over(outside) == {"event": 1, "job": 1}
        await runtime.ctx.queue.resume("subscription:audit")
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["audited"]


async def test_a_pause_by_hand_is_as_good(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[send])) as runtime:
        await outside.execute("update chimpbase.queue set paused_at = now()")
        await runtime.ctx.queue.enqueue(mail, 1)
        await outside.execute("update chimpbase.queue set paused_at = null")
        await until(lambda: is_idle(outside))


async def test_a_queue_that_is_not_there_is_named_with_the_nearest(start: Start) -> None:
    async with start(App("a", register=[send]), workers=False) as runtime:
        with pytest.raises(errors.NotRegistered, match="did you mean 'mail'"):
            await runtime.ctx.queue.pause("mial")
        with pytest.raises(errors.NotRegistered):
            await runtime.ctx.queue.resume("mial")
        wrong_queues: list[Any] = [7, None, "", "a\0", "\ud800", placed]
        for wrong in wrong_queues:
            with pytest.raises(errors.UsageError):
                await runtime.ctx.queue.pause(wrong)
        wrong_texts: list[Any] = ["", 7]
        for wrong in wrong_texts:
            with pytest.raises(errors.UsageError):
                await runtime.ctx.queue.pause(mail, by=wrong)


async def test_a_plain_function_pauses_and_resumes(start: Start, outside: asyncpg.Connection) -> None:
    @worker("control")
    def control(ctx: SyncCtx, verb: str) -> None:
        getattr(ctx.queue, verb)("mail")

    async with start(App("a", register=[send, control])) as runtime:
        await runtime.ctx.queue.enqueue(control, "pause")
        await until(lambda: is_idle(outside))
        await runtime.ctx.queue.enqueue(mail, 1)
        await runtime.ctx.queue.enqueue(control, "resume")
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["1"]
