"""What users of other workflow systems suffer from, and does not happen here; docs/complaints.md lists it all."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Handle, Retry, Signal, SyncCtx, Wf, errors, step
from chimpbase.testing import rehearse
from tests.running import Ear, Start, is_idle, listen_to_engine, notes
from tests.waiting import passing, until

pytestmark = pytest.mark.anyio
go = Signal("go", int)


@step
async def write(ctx: Ctx, note: str) -> str:
    await ctx.db.execute("insert into ledger values ('step', $1)", note)
    return note


async def is_(run: Handle[Any], status: str) -> bool:
    return (await run.get()).status == status


async def test_a_blip_of_the_database_strands_no_run(start: Start, outside: asyncpg.Connection) -> None:
    """dbos-py#716: rows whose recovery met an error were never looked at again."""
    app, cut = App("blip"), list[str]()

    @app.workflow("flow")
    async def flow(wf: Wf, n: int) -> int:
        await write(wf, str(n))
        await wf.sleep(0.01)
        return n

    def blip(sql: str) -> None:
        if "runs." in sql and len(cut) < 30:
            cut.append(sql)
            raise ConnectionResetError("a blip")

    async with start(app) as runtime:
        listen_to_engine(runtime, Ear(before=blip))
        async with app.transaction() as ctx:
            for n in range(10):
                await ctx.workflow.start(flow, n, id=f"run {n}")
        for n in range(10):
            assert await app.ctx.workflow.result(f"run {n}", timeout=20) == n
    assert sorted(await notes(outside)) == [str(n) for n in range(10)]


async def test_deciding_by_which_task_ends_first_is_found_out_and_does_nothing_twice(
    start: Start, outside: asyncpg.Connection
) -> None:
    """sdk-python#429 and its like: `asyncio.as_completed` has another order in each activation."""
    app, first = App("order"), {"n": 1}

    async def slow(n: int) -> int:
        await until(lambda: n == first["n"])
        first["n"] = 3 - n
        return n

    @app.workflow("race")
    async def race(wf: Wf) -> list[int]:
        order = list[int]()
        tasks = [asyncio.ensure_future(wf.step("slow", slow, n)) for n in (1, 2)]
        for one in asyncio.as_completed(tasks):
            order.append(await one)
            await write(wf, f"after {order[-1]}")
        await wf.sleep(0.01)
        return order

    async with start(app):
        first["n"] = 2  # the second task ends first; from memory they will end in the order of their making
        async with app.transaction() as ctx:
            await ctx.workflow.start(race, id="a")
        with pytest.raises(errors.WorkflowFailed, match="write#1 was done with") as caught:
            await app.ctx.workflow.result("a", timeout=10)
        assert caught.value.state == "blocked"
    assert await notes(outside) == ["after 2", "after 1"]


async def test_code_that_holds_the_event_loop_for_seconds_fails_nothing(
    start: Start, outside: asyncpg.Connection
) -> None:
    """sdk-python#1050: a workflow that computes for two seconds is called a deadlock."""
    app, barrier = App("busy"), threading.Event()

    @app.workflow("busy")
    async def busy(wf: Wf) -> str:
        await write(wf, "before")
        barrier.wait(2.5)
        return await write(wf, "after")

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(busy, id="a")
        assert await app.ctx.workflow.result("a", timeout=20) == "after"
    assert await notes(outside) == ["before", "after"]


async def test_a_run_that_is_stuck_blocks_no_queue_of_concurrency_one(
    start: Start, outside: asyncpg.Connection
) -> None:
    """dbos-py#805: one stuck run held the only slot for ever."""
    app, world = App("slots"), {"way": "a"}

    @app.workflow("one-at-a-time", concurrency=1)
    async def one_at_a_time(wf: Wf, n: int) -> int:
        if n == 0:
            await write(wf, world["way"])
        await wf.wait(go)
        return n

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(one_at_a_time, 0, id="stuck")
        stuck = app.ctx.workflow.handle("stuck")
        await until(lambda: is_(stuck, "waiting"))
        world["way"] = "b"
        await stuck.signal(go, 1)
        await until(lambda: is_(stuck, "blocked"))
        async with app.transaction() as ctx:
            for n in (1, 2, 3):  # and those that wait hold it neither
                await ctx.workflow.start(one_at_a_time, n, id=str(n))
        await until(lambda: is_(app.ctx.workflow.handle("3"), "waiting"))
        for n in (3, 2, 1):
            await app.ctx.workflow.signal(str(n), go, 1)
            assert await app.ctx.workflow.result(str(n), timeout=10) == n


async def test_waiting_runs_take_no_threads_and_no_places(start: Start, outside: asyncpg.Connection) -> None:
    """dbos-py#582: more waiting workflows than threads were a deadlock."""
    app = App("threads")

    @step
    def look(ctx: SyncCtx, n: int) -> int:
        return n

    @app.workflow("waiter", concurrency=2)
    async def waiter(wf: Wf, n: int) -> int:
        return await look(wf, n) + (await wf.wait(go) or 0)

    async with start(app):
        threads = threading.active_count()
        async with app.transaction() as ctx:
            for n in range(60):
                await ctx.workflow.start(waiter, n, id=str(n))
        await until(lambda: outside.fetchval("select count(*) = 60 from chimpbase.run where state = 'waiting'"))
        assert threading.active_count() <= threads + 16
        await app.ctx.workflow.signal("59", go, 1)
        assert await app.ctx.workflow.result("59", timeout=10) == 60


async def test_an_error_that_is_not_to_be_retried_is_not(start: Start, outside: asyncpg.Connection) -> None:
    """ts#1243: a card that was declined is charged again and again."""
    app, tries = App("errors"), list[str]()

    @step(retry=Retry(max_attempts=5, first=timedelta(0), give_up_on=(KeyError,)))
    async def declined(ctx: Ctx) -> None:
        tries.append("declined")
        raise KeyError("declined")

    @step(retry=Retry(max_attempts=3, first=timedelta(0), retry_on=(ConnectionError,)))
    async def other(ctx: Ctx) -> None:
        tries.append("other")
        raise ValueError("no number")

    @app.workflow("pays")
    async def pays(wf: Wf) -> int:
        for one in (declined, other):
            with pytest.raises(errors.StepFailed):
                await one(wf)
        return len(tries)

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(pays, id="a")
        assert await app.ctx.workflow.result("a", timeout=10) == 2


async def test_what_is_too_large_is_an_error_where_it_is_made_and_wedges_nothing(
    start: Start, outside: asyncpg.Connection
) -> None:
    """inngest-kt#113, dust#9640: beyond a limit the run was stuck, or killed with all its history."""
    app = App("big")

    @step(retry=Retry(max_attempts=1))
    async def load(ctx: Ctx, size: int) -> str:
        return "x" * size

    @app.workflow("big")
    async def big(wf: Wf) -> list[Any]:
        most = [len(await load(wf, 1_000_000)) for _ in range(10)]  # ten megabytes in all are none of its business
        try:
            await load(wf, 8_000_000)
        except errors.StepFailed as error:
            return [sum(most), str(error)]
        return []

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(big, id="a")
        total, said = await app.ctx.workflow.result("a", timeout=20)
        assert total == 10_000_000
        assert "takes 8,000,002 bytes as JSON; the limit is 1,048,576. Store it elsewhere and pass its key" in said
        with pytest.raises(errors.PayloadError, match="the limit is"):
            await app.ctx.workflow.signal("a", "more", "y" * 4_000_000)


async def test_sleeping_runs_cost_no_statements(start: Start, outside: asyncpg.Connection) -> None:
    """hatchet#2538: hundreds of thousands of empty queries a day."""
    app = App("idle")

    @app.workflow("sleeper")
    async def sleeper(wf: Wf) -> None:
        await wf.sleep(timedelta(days=30))

    async def counted(ear: Ear) -> int:
        ear.heard.clear()
        await passing(1.0)
        return len(ear.heard)

    async with start(app, poll=0.25) as runtime:
        ear = listen_to_engine(runtime, Ear())
        await until(lambda: is_idle(outside))
        none = await counted(ear)
        async with app.transaction() as ctx:
            for n in range(300):
                await ctx.workflow.start(sleeper, id=str(n))
        await until(lambda: outside.fetchval("select count(*) = 300 from chimpbase.run where state = 'sleeping'"))
        many = await counted(ear)
    assert many <= 2 * none + 20


async def test_a_process_without_workers_recovers_nothing(start: Start, outside: asyncpg.Connection) -> None:
    """ts#1130: a program on a developer's machine took over the runs of others."""
    app, other = App("dev"), App("dev")

    async def flow(wf: Wf) -> str:
        return await write(wf, "done")

    app.workflow("flow")(flow)
    other.workflow("flow")(flow)
    async with start(app, workers=False):
        async with app.transaction() as ctx:
            await ctx.workflow.start("flow", id="a")
        await passing(0.3)
        assert await notes(outside) == []
        assert (await app.ctx.workflow.get("a")).why == "no live process can run flow v1"
        async with start(other):
            assert await app.ctx.workflow.result("a", timeout=10) == "done"


async def test_a_person_may_answer_after_months_and_hears_of_it_meanwhile() -> None:
    """pydantic-ai#6744: an approval that takes weeks, in a workflow that tells what it does."""
    app = App("approvals")

    @app.workflow("ask")
    async def ask(wf: Wf) -> list[Any]:
        callback = await wf.callback("approve", str)
        await wf.emit("told", {"token": callback.token})
        return [await wf.wait(callback, timeout=timedelta(days=90)), await wf.wait(callback, timeout=1, default="once")]

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(ask, id="a")
        await t.advance(timedelta(days=60))
        async with t.transaction() as ctx:
            told = await anext(ctx.workflow.tail("a", "told"))
            await ctx.workflow.complete(told.payload["token"], "yes")
        await t.advance(timedelta(seconds=2))
        assert await t.result("a") == ["yes", "once"]


async def test_a_long_loop_replays_no_history() -> None:
    """vercel#2472: each round cost as much as all before it."""
    app = App("loops")

    async def one(n: int) -> int:
        return n

    @app.workflow("loop")
    async def loop(wf: Wf, n: int) -> int:
        for _ in range(20):
            n = await wf.step("count", one, n + 1)
        if n < 400:
            await wf.continue_as(n)
        return n

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(loop, 0, id="a")
        await t.drain()
        assert await t.result("a") == 400
        assert (await t.run("a")).round == 20
        async with t.transaction() as ctx:
            assert len(await ctx.workflow.history("a")) == 20
