"""The durable clock: time passes without waiting, and everything that falls due on the way happens in its order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from chimpbase import App, Ctx, Occurrence, Queue, Retry, Signal, Wf, errors, step
from chimpbase.testing import rehearse

pytestmark = pytest.mark.anyio

paid = Signal("paid", bool)


async def test_delays_fall_due_in_the_order_of_their_time() -> None:
    app, todo, ran = App("delays"), Queue("todo", str), list[tuple[str, datetime]]()

    @app.worker(todo)
    async def do(ctx: Ctx, what: str) -> None:
        ran.append((what, await ctx.db.fetch_value("select chimpbase.clock()")))

    async with rehearse(app) as t:
        start = await t.now()
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "third", delay=timedelta(days=3))
            await ctx.queue.enqueue(todo, "first", delay=timedelta(hours=1))
            await ctx.queue.enqueue(todo, "second", delay=timedelta(days=1))
            await ctx.queue.enqueue(todo, "never", delay=timedelta(days=9))
        drained = await t.advance(timedelta(days=4))
        assert drained.completed == 3
        hours = [(what, round((at - start) / timedelta(hours=1))) for what, at in ran]
        assert hours == [("first", 1), ("second", 24), ("third", 72)]
        assert timedelta(0) <= await t.now() - start - timedelta(days=4) < timedelta(minutes=1)
        assert await t.enqueued(todo) == ["never"]


async def test_a_failing_job_is_retried_until_its_attempts_are_used_up() -> None:
    app, todo, tries = App("retries"), Queue("todo", str), list[int]()

    @app.worker(todo, retry=Retry(max_attempts=4, first=timedelta(hours=1)))
    async def do(ctx: Ctx, what: str) -> None:
        tries.append(ctx.job.attempt)
        raise ConnectionError("no line")

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "it")
        drained = await t.advance(timedelta(days=1))
        assert tries == [1, 2, 3, 4]
        assert (drained.retried, drained.dead) == (3, 1)


async def test_a_schedule_fires_at_each_of_its_instants() -> None:
    app, dues = App("cron"), list[datetime]()

    @app.cron("0 * * * *")
    async def hourly(ctx: Ctx, due: Occurrence) -> None:
        dues.append(due.due_at)

    async with rehearse(app) as t:
        start = await t.now()
        await t.advance(timedelta(hours=5))
        first = start.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        assert dues == [first + timedelta(hours=n) for n in range(5)]


async def test_a_schedule_may_be_left_for_the_end() -> None:
    app, dues = App("cron"), list[datetime]()

    @app.cron("* * * * * *")
    async def every_second(ctx: Ctx, due: Occurrence) -> None:
        dues.append(due.due_at)

    async with rehearse(app) as t:
        start = await t.now()
        await t.advance(timedelta(days=3), every_occurrence=False)
        assert 1 <= len(dues) < 60  # the last one that was missed, and those of the seconds that this took
        assert dues[0] >= start + timedelta(days=3, seconds=-1)


async def test_a_run_sleeps_and_its_wait_runs_out() -> None:
    app = App("flows")

    @app.workflow("checkout", version=1)
    async def checkout(wf: Wf, order: int) -> str:
        await wf.sleep(timedelta(hours=2))
        answer = await wf.wait(paid, timeout=timedelta(days=3))
        return "expired" if answer is None else "paid"

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            for order in (1, 2):
                await ctx.workflow.start(checkout, order, id=f"order-{order}")
        await t.drain()
        assert (await t.run("order-1")).status == "sleeping"
        with pytest.raises(errors.WrongState, match="is sleeping"):
            await t.result("order-1")
        await t.advance(timedelta(hours=3))
        assert (await t.run("order-1")).waits == ("paid",)
        async with t.transaction() as ctx:
            await ctx.workflow.signal("order-1", paid, payload=True)
        await t.drain()
        assert await t.result("order-1") == "paid"
        began = monotonic()
        await t.advance(timedelta(days=3))
        assert await t.result("order-2") == "expired"
        assert monotonic() - began < 10
        with pytest.raises(errors.NotFound):
            await t.result("order-3")


async def test_two_sleeps_of_an_hour_are_over_after_two_hours() -> None:
    app = App("sleepers")

    @app.workflow("nap", version=1)
    async def nap(wf: Wf) -> str:
        await wf.sleep(timedelta(hours=1))
        await wf.sleep(timedelta(hours=1))
        return "awake"

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(nap, id="n")
        await t.advance(timedelta(minutes=119))
        assert (await t.run("n")).status == "sleeping"
        await t.advance(timedelta(minutes=1))
        assert await t.result("n") == "awake"


async def test_what_expires_expires() -> None:
    async with rehearse(App("keys")) as t:
        async with t.transaction() as ctx:
            await ctx.kv.set("session", "ada", ttl=timedelta(hours=1))
        await t.advance(timedelta(minutes=59))
        async with t.transaction() as ctx:
            assert await ctx.kv.get("session", None) == "ada"
        await t.advance(timedelta(minutes=2))
        async with t.transaction() as ctx:
            assert await ctx.kv.get("session", None) is None


async def test_a_step_is_tried_again_without_waiting() -> None:
    tries = list[int]()

    @step(retry=Retry(max_attempts=5, first=timedelta(hours=1), cap=timedelta(hours=1)))
    async def charge(ctx: Ctx) -> int:
        tries.append(len(tries))
        if len(tries) < 4:
            raise ConnectionError("no line")
        return len(tries)

    app = App("steps", [charge])

    @app.workflow("pay", version=1)
    async def pay(wf: Wf) -> int:
        return await charge(wf)

    async with rehearse(app) as t:
        start = await t.now()
        async with t.transaction() as ctx:
            await ctx.workflow.start(pay, id="p")
        await t.drain()
        assert (await t.run("p")).status == "sleeping"
        assert len(tries) == 1
        await t.advance(timedelta(hours=3))
        assert await t.result("p") == 4
        assert await t.now() - start > timedelta(hours=1)


async def test_no_lease_runs_out_on_the_way() -> None:
    app, todo = App("leases"), Queue("todo", str)

    @app.worker(todo)
    async def do(ctx: Ctx, what: str) -> None: ...

    async with rehearse(app) as t:
        await t.advance(timedelta(days=400))
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "it")
            assert await ctx.db.fetch_value("select count(*) from chimpbase.process where dead_at is not null") == 0
        assert (await t.drain()).completed == 1


async def test_time_does_not_go_back() -> None:
    async with rehearse(App("back")) as t:
        assert abs(await t.now() - datetime.now(UTC)) < timedelta(minutes=1)
        with pytest.raises(errors.UsageError, match="one direction"):
            await t.advance(timedelta(hours=-1))
