"""Workflows: steps are remembered, signals are consumed once and in order, failures are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Retry, Run, Signal, SyncCtx, Wf, step
from chimpbase._core.errors import AlreadyStarted, NotFound, StepFailed, WorkflowFailed, WrongState
from tests.running import Ear, Start, is_idle, listen_to_engine, notes, the_row
from tests.waiting import until

pytestmark = pytest.mark.anyio

go = Signal("go", int)


@step
async def write(ctx: Ctx, note: str) -> str:
    await ctx.db.execute("insert into ledger values ('step', $1)", note)
    return note.upper()


async def run_to_end(app: App, workflow: Any, input: Any = None, *, within_s: float = 10) -> Any:
    async with app.transaction() as ctx:
        id = await ctx.workflow.start(workflow, input)
    async with app.transaction() as ctx:
        return await ctx.workflow.result(id, timeout=within_s)


async def look(app: App, id: str) -> Run:
    async with app.transaction() as ctx:
        return await ctx.workflow.get(id)


async def waits(app: App, id: str) -> bool:
    return (await look(app, id)).status == "waiting"


async def send(app: App, id: str, *payloads: int, signal: Signal[int] = go) -> None:
    async with app.transaction() as ctx:
        for payload in payloads:
            await ctx.workflow.signal(id, signal, payload)


async def test_a_step_runs_once_whatever_follows(start: Start, outside: asyncpg.Connection) -> None:
    app = App("steps")

    @app.workflow("two")
    async def two(wf: Wf, start: str) -> list[str]:
        first = await write(wf, start)
        await wf.sleep(0.01)
        second = await write(wf, first)
        await wf.sleep(0.01)
        return [first, second]

    async with start(app):
        assert await run_to_end(app, two, "a") == ["A", "A"]
        assert await notes(outside) == ["a", "A"]
        keys = [row[0] for row in await outside.fetch("select key from chimpbase.step order by seq")]
        assert keys == ["write#1", "sleep#1", "write#2", "sleep#2"]


async def test_a_signal_sent_before_the_wait_is_consumed(start: Start, outside: asyncpg.Connection) -> None:
    app = App("signals")

    @app.workflow("waiter")
    async def waiter(wf: Wf) -> int | None:
        await wf.sleep(0.05)
        return await wf.wait(go, timeout=60)

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(waiter, id="a")
            await ctx.workflow.signal("a", go, 7)
        async with app.transaction() as ctx:
            assert await ctx.workflow.result("a", timeout=10) == 7
        assert await outside.fetchval("select count(*) from chimpbase.signal") == 0


async def test_signals_are_consumed_in_the_order_sent(start: Start, outside: asyncpg.Connection) -> None:
    app = App("signals")
    other = Signal("other", int)

    @app.workflow("waiter")
    async def waiter(wf: Wf) -> list[int | None]:
        return [await wf.wait(go), await wf.wait(go), await wf.wait(other), await wf.wait(go)]

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(waiter, id="a")
        await until(lambda: waits(app, "a"))
        await send(app, "a", 0, signal=other)
        await send(app, "a", 1, 2)
        await send(app, "a", 3)
        async with app.transaction() as ctx:
            assert await ctx.workflow.result("a", timeout=10) == [1, 2, 0, 3]


async def test_a_wait_ends_at_its_timeout_and_a_later_signal_is_kept_for_the_next(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("timeout")

    @app.workflow("waiter")
    async def waiter(wf: Wf) -> list[int | None]:
        return [await wf.wait(go, timeout=0.05), await wf.wait(go)]

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(waiter, id="a")
        await until(lambda: outside.fetchval("select exists (select from chimpbase.step where kind = 'wait')"))
        await send(app, "a", 1)
        async with app.transaction() as ctx:
            assert await ctx.workflow.result("a", timeout=10) == [None, 1]


async def test_a_signal_racing_with_the_timeout_is_never_lost(start: Start, outside: asyncpg.Connection) -> None:
    """Whichever wins, each signal ends in exactly one wait."""
    app = App("race")

    @app.workflow("waiter")
    async def waiter(wf: Wf) -> list[int | None]:
        first = await wf.wait(go, timeout=0.03)
        return [first, first if first is not None else await wf.wait(go, timeout=10)]

    async def race(n: int) -> None:
        async with app.transaction() as ctx:
            await ctx.workflow.start(waiter, id=f"run {n}")
        await until(lambda: outside_state(app, f"run {n}"))
        woken = asyncio.Event()
        asyncio.get_running_loop().call_later(0.001 * n, woken.set)
        await woken.wait()
        await send(app, f"run {n}", n)

    async with start(app, pool_size=20):
        await asyncio.gather(*(race(n) for n in range(40)))
        for n in range(40):
            async with app.transaction() as ctx:
                assert (await ctx.workflow.result(f"run {n}", timeout=10))[1] == n
        assert await outside.fetchval("select count(*) from chimpbase.signal") == 0


async def test_a_signal_that_comes_just_before_the_run_rests_is_served(
    start: Start, outside: asyncpg.Connection
) -> None:
    """It comes after the wait found none, and before the run is put to rest."""
    app = App("late")
    sent = 0

    @app.workflow("waiter")
    async def waiter(wf: Wf) -> int | None:
        return await wf.wait(go)

    async def signal_first(sql: str) -> None:
        nonlocal sent
        if "runs.suspend" in sql and not sent:
            sent += 1
            await outside.execute("select chimpbase.signal('a', 'go', '5')")

    async with start(app, poll=60) as runtime:
        listen_to_engine(runtime, Ear(before=signal_first))
        async with app.transaction() as ctx:
            await ctx.workflow.start(waiter, id="a")
        async with app.transaction() as ctx:
            assert await ctx.workflow.result("a", timeout=5) == 5
        assert sent == 1


async def test_waits_and_steps_may_run_side_by_side(start: Start, outside: asyncpg.Connection) -> None:
    app = App("gather")
    left, right = Signal("left", int), Signal("right", int)

    @app.workflow("both")
    async def both(wf: Wf) -> list[Any]:
        return list(await asyncio.gather(wf.wait(left), wf.wait(right), write(wf, "a"), wf.sleep(0.05)))

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(both, id="a")
        await send(app, "a", 2, signal=right)
        await until(lambda: waits(app, "a"))
        await send(app, "a", 1, signal=left)
        async with app.transaction() as ctx:
            assert await ctx.workflow.result("a", timeout=10) == [1, 2, "A", None]
        assert await notes(outside) == ["a"]


async def fail_in_code(wf: Wf) -> None:
    raise ValueError("in the code")


async def fail_in_step(wf: Wf) -> None:
    await failing(wf)


async def fail_in_sql(wf: Wf) -> None:
    await bad_sql(wf)


async def answer_with_nan(wf: Wf) -> float:
    return float("nan")


async def step_answers_with_nan(wf: Wf) -> Any:
    return await nan(wf)


async def exit_program(wf: Wf) -> None:
    raise SystemExit


@step(retry=Retry(max_attempts=2, first=timedelta(0)))
async def failing(ctx: Ctx) -> None:
    await ctx.db.execute("insert into ledger values ('step', 'never')")
    raise ValueError("in the step")


@step(retry=Retry(max_attempts=1))
async def bad_sql(ctx: Ctx) -> None:
    await ctx.db.execute("select 1 / 0")


@step
async def nan(ctx: Ctx) -> float:
    await ctx.db.execute("insert into ledger values ('step', 'never')")
    return float("nan")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (fail_in_code, "ValueError: in the code"),
        (fail_in_step, "in the step"),
        (fail_in_sql, "division by zero"),
        (answer_with_nan, "is nan"),
        (step_answers_with_nan, "is nan"),
        (exit_program, "SystemExit"),
    ],
)
async def test_a_failure_is_recorded_and_nothing_keeps_running(
    start: Start, outside: asyncpg.Connection, code: Callable[[Wf], Awaitable[Any]], reason: str
) -> None:
    app = App("failure")
    app.workflow("failure")(code)  # type: ignore[arg-type]
    async with start(app):
        with pytest.raises(WorkflowFailed, match=reason):
            await run_to_end(app, "failure")
        state, error, ended = await the_row(outside, "select state, error, finished_at is not null from chimpbase.run")
        assert (state, ended) == ("failed", True)
        assert reason in error
        assert await is_idle(outside)
        assert await outside.fetchval("select count(*) from chimpbase.job_dead") == 0
        assert await notes(outside) == []


async def test_a_caught_step_failure_is_remembered(start: Start, outside: asyncpg.Connection) -> None:
    app = App("caught")

    @app.workflow("careful")
    async def careful(wf: Wf) -> str:
        caught = ""
        try:
            await failing(wf)
        except StepFailed as error:
            caught = str(error)
        await wf.sleep(0.01)
        return caught

    async with start(app):
        assert "in the step" in await run_to_end(app, careful)
        assert [tuple(row) for row in await outside.fetch("select key, attempt from chimpbase.step order by seq")] == [
            ("failing#1", 2),
            ("sleep#1", 1),
        ]


async def test_a_step_is_tried_again_and_only_the_last_attempt_leaves_traces(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("retry")
    keys: list[str] = []

    @step(retry=Retry(max_attempts=3, first=timedelta(0)))
    def flaky(ctx: SyncCtx) -> int:
        keys.append(ctx.idempotency_key)
        ctx.db.execute("insert into ledger values ('step', $1)", f"attempt {len(keys)}")
        if len(keys) < 3:
            raise ValueError
        return len(keys)

    @app.workflow("retrying")
    async def retrying(wf: Wf) -> int:
        return await flaky(wf)

    async with start(app):
        assert await run_to_end(app, retrying) == 3
        assert await notes(outside) == ["attempt 3"]
        assert len(set(keys)) == 1


async def test_the_errors_of_starting_and_signalling(start: Start, outside: asyncpg.Connection) -> None:
    app = App("errors")

    @app.workflow("done")
    async def done(wf: Wf) -> None: ...

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(done, id="a")
        async with app.transaction() as ctx:
            await ctx.workflow.result("a", timeout=10)
        with pytest.raises(AlreadyStarted):
            async with app.transaction() as ctx:
                await ctx.workflow.start(done, id="a")
        with pytest.raises(WrongState, match="has ended") as caught:
            await send(app, "a", 1)
        assert caught.value.state == "completed"
        with pytest.raises(NotFound):
            await send(app, "b", 1)
        with pytest.raises(NotFound):
            await look(app, "b")


async def test_a_run_may_be_started_by_the_step_of_another_and_its_end_awaited(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("family")

    @app.workflow("child")
    async def child(wf: Wf, n: int) -> int:
        return n * 2

    @step
    async def begin(ctx: Ctx, n: int) -> str:
        return (await ctx.workflow.start(child, n)).id

    @app.workflow("parent")
    async def parent(wf: Wf, n: int) -> str:
        return await begin(wf, n)

    async with start(app):
        id = await run_to_end(app, parent, 21)
        async with app.transaction() as ctx:
            assert await ctx.workflow.result(id, timeout=10) == 42


@pytest.mark.parametrize("notify", [True, False])
async def test_many_runs_at_once(start: Start, outside: asyncpg.Connection, notify: bool) -> None:
    app = App("many")

    @app.workflow("journey")
    async def journey(wf: Wf, n: int) -> int:
        await write(wf, str(n))
        await wf.sleep(0.01)
        return n + (await wf.wait(go) or 0)

    async with start(app, notify=notify):
        async with app.transaction() as ctx:
            for n in range(100):
                await ctx.workflow.start(journey, n, id=f"run {n}")
        for n in range(100):
            await send(app, f"run {n}", 1000)
        for n in range(100):
            async with app.transaction() as ctx:
                assert await ctx.workflow.result(f"run {n}", timeout=20) == n + 1000
        assert sorted(map(int, await notes(outside))) == list(range(100))


async def outside_state(app: App, id: str) -> bool:
    return (await look(app, id)).status in {"waiting", "completed"}


async def test_branches_keep_their_own_memos_whichever_ends_first(start: Start, outside: asyncpg.Connection) -> None:
    app = App("branches")

    @step
    async def charge(ctx: Ctx, customer: int) -> int:
        await ctx.db.execute("insert into ledger values ('charge', $1)", str(customer))
        return customer

    @app.workflow("branches")
    async def branches(wf: Wf) -> list[int]:
        async def one(customer: int) -> int:
            # the later branch wakes first, so the order of first uses turns round between activations
            await wf.sleep(0.4 - 0.1 * customer)
            return await charge(wf, customer)

        return list(await asyncio.gather(*(one(customer) for customer in range(4))))

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(branches, id="a")
        assert await app.ctx.workflow.result("a", timeout=20) == [0, 1, 2, 3]
    assert sorted(await notes(outside)) == ["0", "1", "2", "3"]
