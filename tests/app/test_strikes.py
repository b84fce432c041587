"""Strikes: jobs held by what their payload contains, exactly, at once, and until the strike is lifted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Limits, Queue, SyncCtx, errors, worker
from tests.running import Start, is_idle, left_over, notes, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

mail = Queue("mail", dict[str, Any])
gated = Queue("gated", dict[str, Any])


@worker(mail)
async def send(ctx: Ctx, letter: dict[str, Any]) -> None:
    await ctx.db.execute("insert into ledger (note) values ($1)", str(letter["to"]))


@worker(gated, limits=Limits(concurrency=2))
async def send_gated(ctx: Ctx, letter: dict[str, Any]) -> None:
    await ctx.db.execute("insert into ledger (note) values ($1)", str(letter["to"]))


async def later(outside: asyncpg.Connection, count: int) -> None:
    async def moved() -> bool:
        return await left_over(outside) == ({"job_later": count} if count else {})

    await until(moved)


@pytest.mark.parametrize("queue", [mail, gated], ids=["plain", "behind a gate"])
async def test_a_strike_holds_what_matches_and_lets_the_rest_pass(
    start: Start, outside: asyncpg.Connection, queue: Queue[dict[str, Any]]
) -> None:
    async with start(App("shop", register=[send, send_gated])) as runtime:
        ctx = runtime.ctx
        await ctx.queue.pause(queue)
        first = await ctx.queue.enqueue(queue, {"to": 1, "customer": {"id": 7, "name": "x"}})
        await ctx.queue.enqueue(queue, {"to": 2, "customer": {"id": 8}})
        strike = await ctx.queue.strike(queue, {"customer": {"id": 7}}, reason="they asked us to wait", by="anna")
        await ctx.queue.resume(queue)
        second = await ctx.queue.enqueue(queue, {"to": 3, "customer": {"id": 7}})
        await ctx.queue.enqueue(queue, {"to": 4})
        await later(outside, 2)

        async def let_pass() -> bool:
            return len(await notes(outside)) == 2

        await until(let_pass)
        assert sorted(await notes(outside)) == ["2", "4"]
        for job in (first, second):
            why = await ctx.queue.explain(job)
            assert (why.state, why.facts["strike"]["id"]) == ("held", strike)
            assert why.summary.endswith("is held by strike 1 of anna: they asked us to wait.")
        (listed,) = await ctx.queue.list_strikes()
        assert (listed.id, listed.queue, listed.payload) == (strike, queue.name, {"customer": {"id": 7}})
        await ctx.queue.lift_strike(strike)
        await until(lambda: is_idle(outside))
        assert sorted(await notes(outside)) == ["1", "2", "3", "4"]
        assert await ctx.queue.list_strikes() == []
        assert not await the_value(outside, "select bool_or(struck) from chimpbase.queue")


async def test_no_claim_takes_a_struck_job_even_before_anybody_moved_it(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        for number in range(20):
            await runtime.ctx.queue.enqueue(mail, {"to": number, "odd": number % 2 == 1})
        await runtime.ctx.queue.strike(mail, {"odd": True})
        # and what somebody makes due by hand is only looked at again
        held = await runtime.ctx.queue.enqueue(mail, {"to": 99, "odd": True}, delay=3600)
    async with start(App("a", register=[send])) as runtime:
        await runtime.ctx.queue.retry(held)
        await later(outside, 11)
        assert sorted(map(int, await notes(outside))) == list(range(0, 20, 2))
        await runtime.ctx.queue.retry(held)
        await later(outside, 11)


async def test_two_strikes_hold_until_both_are_lifted(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[send])) as runtime:
        queue = runtime.ctx.queue
        one, two = await queue.strike(send, {"a": 1}), await queue.strike(send, {"b": 2})
        await queue.enqueue(mail, {"to": 1, "a": 1, "b": 2})
        await later(outside, 1)
        await queue.lift_strike(one)
        await queue.enqueue(mail, {"to": 2, "a": 1})
        await until(lambda: notes(outside))
        assert await notes(outside) == ["2"]
        await queue.lift_strike(two)
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["2", "1"]


async def test_a_held_job_can_be_cancelled_and_a_rolled_back_strike_holds_nothing(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[send])) as runtime:
        await runtime.ctx.queue.strike(mail, {"a": 1})
        job = await runtime.ctx.queue.enqueue(mail, {"to": 1, "a": 1})
        await later(outside, 1)
        assert await runtime.ctx.queue.cancel(job) == "cancelled"
        assert await left_over(outside) == {}
        with pytest.raises(RuntimeError):
            async with runtime.transaction() as ctx:
                await ctx.queue.strike(mail, {})
                raise RuntimeError
        await runtime.ctx.queue.enqueue(mail, {"to": 2})
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["2"]


async def test_a_payload_that_is_no_json_is_not_held_and_holds_nobody_up(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[send])) as runtime:
        await runtime.ctx.queue.strike(mail, {"a": 1})
        await outside.execute(
            "insert into chimpbase.job (id, sort, queue, payload) "
            "select 70, 70, id, 'no json' from chimpbase.queue where name = 'mail'"
        )
        await runtime.ctx.queue.enqueue(mail, {"to": 2})
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["2"]
        assert await left_over(outside) == {"job_dead": 1}


async def test_wrong_strikes_are_refused(start: Start) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        queue = runtime.ctx.queue
        with pytest.raises(errors.NotRegistered, match="did you mean 'mail'"):
            await queue.strike("mial", {})
        payloads: list[Any] = [float("nan"), "a\0", "\ud800", {1: 2}, object(), timedelta]
        for payload in payloads:
            with pytest.raises(errors.UsageError):
                await queue.strike(mail, payload)
        ids: list[Any] = [0, True, "1", None]
        for wrong in ids:
            with pytest.raises(errors.UsageError):
                await queue.lift_strike(wrong)
        with pytest.raises(errors.NotFound):
            await queue.lift_strike(12)


async def test_a_plain_function_strikes_and_lifts(start: Start, outside: asyncpg.Connection) -> None:
    @worker("control")
    def control(ctx: SyncCtx, number: int) -> None:
        ctx.queue.lift_strike(ctx.queue.strike("mail", {"a": 1}))
        assert ctx.queue.list_strikes() == []

    async with start(App("a", register=[send, control])) as runtime:
        await runtime.ctx.queue.enqueue(control, 1)
        await until(lambda: is_idle(outside))
        assert await left_over(outside) == {}
