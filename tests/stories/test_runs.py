"""What can be done to runs: ids in use, cancelling, pausing, repeating, finding; children and callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Handle, OldRun, Retry, Signal, Update, Wf, errors, step
from tests.running import Start, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

go = Signal("go", int)
approval = Signal("approval", str)
set_quantity = Update("set-quantity", int, int)


@step
async def write(ctx: Ctx, note: str) -> str:
    await ctx.db.execute("insert into ledger values ('step', $1)", note)
    return note


@pytest.fixture
async def app(start: Start, outside: asyncpg.Connection) -> AsyncIterator[App]:
    app = App("runs")
    define(app)
    async with start(app):
        yield app


def define(app: App) -> None:
    @app.workflow("waiter")
    async def waiter(wf: Wf, n: int) -> int:
        await write(wf, f"before {n}")
        wf.state["phase"] = "waiting"
        got = await wf.wait(go)
        await write(wf, f"after {n}")
        return n + (got or 0)

    @app.workflow("parent")
    async def parent(wf: Wf, how: str) -> list[Any]:
        one = await wf.start("waiter", 1)
        two = await wf.start("waiter", 2, id="second", on_parent_close="abandon")
        if how == "leave":
            return [one.id, two.id]
        who, value = await wf.select(two=two, late=wf.timer(30))
        return [who, value, await one]

    @app.workflow("careful")
    async def careful(wf: Wf, _: int) -> str:
        await write(wf, "book")
        wf.undo(write, "unbook")
        await write(wf, "pay")
        wf.undo(write, "refund")
        try:
            await wf.wait(go)
        except asyncio.CancelledError:
            async with wf.shield():
                await write(wf, "shielded")
            raise
        raise ValueError("no such room")

    @app.workflow("counter")
    async def counter(wf: Wf, n: int) -> int:
        await write(wf, f"round {n}")
        if n == 3:
            return n
        return await wf.continue_as(n + 1)

    @app.workflow("asks")
    async def asks(wf: Wf, _: int) -> list[Any]:
        callback = await wf.callback("approve", str)
        wf.state = {"token": callback.token}
        return [await wf.wait(callback), await wf.wait(callback, timeout=0.01, default="late")]

    @app.workflow("editable")
    async def editable(wf: Wf, quantity: int) -> int:
        known = {"quantity": quantity}

        def change(to: int) -> int:
            before, known["quantity"] = known["quantity"], to
            return before

        def small(to: int) -> None:
            if to > 10:
                raise ValueError("too many")

        wf.on(set_quantity, change, validator=small)
        while (got := await wf.wait(go)) is not None and got > 0:
            await write(wf, f"quantity {known['quantity']}")
        return known["quantity"]


async def started(app: App, workflow: str, input: Any, id: str, **options: Any) -> Handle[Any]:
    async with app.transaction() as ctx:
        await ctx.workflow.start(workflow, input, id=id, **options)
    return app.ctx.workflow.handle(id)


async def waits(run: Handle[Any]) -> bool:
    return (await run.get()).status == "waiting"


async def test_an_id_in_use_is_answered_replaced_or_refused(app: App, outside: asyncpg.Connection) -> None:
    first = await started(app, "waiter", 1, "a")
    await until(lambda: waits(first))
    with pytest.raises(errors.AlreadyStarted):
        await started(app, "waiter", 2, "a")
    await started(app, "waiter", 2, "a", on_conflict="use_existing")
    assert (await first.get()).input == 1
    await started(app, "waiter", 3, "a", on_conflict="replace")
    await until(lambda: waits(first))
    assert (await first.get()).input == 3
    await first.signal(go, 10)
    assert await first.result(timeout=10) == 13
    states = [tuple(row) for row in await outside.fetch("select input, state from chimpbase.run order by number")]
    assert states == [("1", "cancelled"), ("3", "completed")]
    with pytest.raises(errors.UsageError, match="on_conflict"):
        await started(app, "waiter", 1, "b", on_conflict="maybe")


async def test_a_signal_starts_the_run_that_is_to_get_it(app: App) -> None:
    handle: Handle[int] | None = None
    for _ in range(2):
        async with app.transaction() as ctx:
            handle = await ctx.workflow.signal_with_start("waiter", 5, id="s", signal=go, payload=1, dedupe="once")
    assert handle is not None
    assert await app.ctx.workflow.result(handle.id, timeout=10) == 6
    with pytest.raises(errors.WrongState):
        await app.ctx.workflow.signal("s", go, 1)


async def test_runs_are_found_by_what_they_are(app: App) -> None:
    one = await started(app, "waiter", 1, "a", attributes={"customer": "ada", "vip": True})
    await started(app, "counter", 3, "c", attributes={"customer": "bob"})
    await until(lambda: waits(one))
    ctx = app.ctx
    await ctx.workflow.result("c", timeout=10)
    assert [run.id for run in await ctx.workflow.find(attributes={"customer": "ada"})] == ["a"]
    assert [run.id for run in await ctx.workflow.find(status="waiting")] == ["a"]
    assert [run.id for run in await ctx.workflow.find("counter", status=["completed", "failed"])] == ["c"]
    found = await one.get()
    assert (found.state, found.attributes, found.capable) == ({"phase": "waiting"}, {"customer": "ada", "vip": True}, 1)
    assert found.why == "waits for go"
    with pytest.raises(errors.UsageError, match="no status"):
        await ctx.workflow.find(status="done")  # type: ignore[arg-type]


async def test_a_cancelled_run_cleans_up_and_undoes_what_it_did(app: App, outside: asyncpg.Connection) -> None:
    run = await started(app, "careful", 1, "a")
    await until(lambda: waits(run))
    await run.cancel("changed my mind")
    with pytest.raises(errors.WorkflowFailed, match="changed my mind") as caught:
        await run.result(timeout=10)
    assert caught.value.state == "cancelled"
    assert await notes(outside) == ["book", "pay", "shielded", "refund", "unbook"]
    with pytest.raises(errors.WrongState):
        await run.cancel()
    assert await is_idle(outside)


async def test_a_failed_run_undoes_what_it_did_and_by_force_nothing_is_done(
    app: App, outside: asyncpg.Connection
) -> None:
    run = await started(app, "careful", 1, "a")
    await run.signal(go, 1)
    with pytest.raises(errors.WorkflowFailed, match="no such room"):
        await run.result(timeout=10)
    assert await notes(outside) == ["book", "pay", "refund", "unbook"]
    other = await started(app, "careful", 1, "b")
    await until(lambda: waits(other))
    await other.cancel(force=True)
    assert (await other.get()).status == "cancelled"
    assert await is_idle(outside)
    assert len(await notes(outside)) == 6


async def test_a_running_step_is_cancelled_at_once(start: Start, outside: asyncpg.Connection) -> None:
    app, began = App("slow"), asyncio.Event()

    async def forever() -> None:
        began.set()
        await asyncio.get_running_loop().create_future()

    @app.workflow("slow")
    async def slow(wf: Wf) -> None:
        await wf.step("forever", forever)

    async with start(app, poll=60):
        run = await started(app, "slow", None, "a")
        await began.wait()
        await run.cancel()
        with pytest.raises(errors.WorkflowFailed, match="cancelled by hand"):
            await run.result(timeout=5)


async def test_children_end_with_their_parent_unless_they_are_abandoned(app: App, outside: asyncpg.Connection) -> None:
    parent = await started(app, "parent", "wait", "p")
    await until(lambda: waits(parent))
    child = app.ctx.workflow.handle("p/waiter#1")
    await until(lambda: waits(child))
    assert (await child.get()).parent == "p"
    await child.signal(go, 10)
    await app.ctx.workflow.signal("second", go, 20)
    assert await parent.result(timeout=10) == ["two", 22, 11]

    leaving = await started(app, "parent", "leave", "q")
    with pytest.raises(errors.WorkflowFailed, match="second"):
        await leaving.result(timeout=10)
    with pytest.raises(errors.WorkflowFailed, match="its parent ended as failed"):
        await app.ctx.workflow.result("q/waiter#1", timeout=10)
    await until(lambda: is_idle(outside))


async def test_a_run_that_is_continued_forgets_its_journal_and_keeps_its_id(
    app: App, outside: asyncpg.Connection
) -> None:
    run = await started(app, "counter", 1, "c")
    assert await run.result(timeout=10) == 3
    assert await notes(outside) == ["round 1", "round 2", "round 3"]
    assert (await run.get()).round == 3
    assert [entry.key for entry in await run.history()] == ["write#1"]


async def test_a_callback_is_completed_once(app: App) -> None:
    run = await started(app, "asks", 1, "a")
    await until(lambda: waits(run))
    token = (await run.get()).state["token"]
    for answer in ("yes", "no"):
        await app.ctx.workflow.complete(token, answer)
    assert await run.result(timeout=10) == ["yes", "late"]
    with pytest.raises(errors.NotFound, match="callback"):
        await app.ctx.workflow.complete("guess", 1)


async def test_updates_are_validated_applied_in_order_and_answered(app: App, outside: asyncpg.Connection) -> None:
    run = await started(app, "editable", 1, "a")
    await until(lambda: waits(run))
    assert await run.update(set_quantity, 5, timeout=10) == 1
    with pytest.raises(errors.UpdateRefused, match="too many"):
        await run.update(set_quantity, 50, timeout=10)
    await run.signal(go, 1)
    await until(lambda: waits(run))
    assert await run.update(set_quantity, 7, timeout=10) == 5
    await run.signal(go, 1)
    await run.signal(go, 0)
    assert await run.result(timeout=10) == 7
    assert await notes(outside) == ["quantity 5", "quantity 7"]
    with pytest.raises(errors.WrongState):
        await run.update(set_quantity, 5, timeout=10)


async def test_a_paused_run_keeps_its_signals_and_goes_on_when_resumed(app: App, outside: asyncpg.Connection) -> None:
    run = await started(app, "waiter", 1, "a")
    await until(lambda: waits(run))
    await run.pause()
    await run.pause()
    await run.signal(go, 1)
    assert (await run.get()).status == "paused"
    assert await notes(outside) == ["before 1"]
    await run.resume()
    assert await run.result(timeout=10) == 2
    with pytest.raises(errors.WrongState):
        await run.pause()


async def test_a_step_that_used_up_its_attempts_may_pause_the_run(start: Start, outside: asyncpg.Connection) -> None:
    app, world = App("exhausted"), {"up": False, "tries": 0}

    @step(retry=Retry(max_attempts=2, first=timedelta(0)), on_exhausted="pause")
    async def call(ctx: Ctx) -> str:
        world["tries"] += 1
        if not world["up"]:
            raise ValueError("the bank is closed")
        return "paid"

    @app.workflow("pays")
    async def pays(wf: Wf) -> str:
        return await call(wf)

    async with start(app):
        run = await started(app, "pays", None, "a")

        async def paused() -> bool:
            return (await run.get()).status == "paused"

        await until(paused)
        assert "the bank is closed" in (await run.get()).why
        await run.resume()
        await until(lambda: world["tries"] == 4)
        await until(paused)
        world["up"] = True
        await run.resume()
        assert await run.result(timeout=10) == "paid"
        assert world["tries"] == 5


async def test_a_run_is_rewound_forked_and_retried(app: App, outside: asyncpg.Connection) -> None:
    run = await started(app, "waiter", 1, "a")
    await run.signal(go, 1)
    assert await run.result(timeout=10) == 2
    await run.rewind(to="wait:go#1")
    await run.signal(go, 5)
    assert await run.result(timeout=10) == 6
    assert await notes(outside) == ["before 1", "after 1", "after 1"]
    fork = await run.fork(at="write#2", id="b")
    assert await app.ctx.workflow.result(fork.id, timeout=10) == 6
    with pytest.raises(errors.NotFound, match="charge#1"):
        await run.rewind(to="charge#1")
    with pytest.raises(errors.WrongState, match="nothing to retry"):
        await run.retry()
    failing = await started(app, "careful", 1, "c")
    await failing.signal(go, 1)
    with pytest.raises(errors.WorkflowFailed):
        await failing.result(timeout=10)
    await failing.retry()
    with pytest.raises(errors.WorkflowFailed, match="no such room"):
        await failing.result(timeout=10)


async def test_runs_of_an_old_version_move_to_the_new_one(start: Start, outside: asyncpg.Connection) -> None:
    old, new = App("versions"), App("versions")

    @old.workflow("flow", version=1)
    async def first(wf: Wf, n: int) -> str:
        await write(wf, f"old {n}")
        return str(await wf.wait(go))

    def upgrade(run: OldRun) -> None:
        run.input = {"n": run.input}
        run.rename("write#1", "begin#1")

    @step(name="begin")
    async def begin(ctx: Ctx, note: str) -> str:
        raise AssertionError("it was done before")

    @new.workflow("flow", version=2, migrate={1: upgrade})
    async def second(wf: Wf, given: dict[str, int]) -> str:
        said = await begin(wf, f"old {given['n']}")
        return f"{said}, {await wf.wait(go)}"

    async with start(old):
        run = await started(old, "flow", 7, "a")
        await until(lambda: waits(run))
    async with start(new):
        await new.ctx.workflow.signal("a", go, 1)
        assert await new.ctx.workflow.result("a", timeout=10) == "old 7, 1"
        assert (await new.ctx.workflow.get("a")).version == 2


async def test_a_version_that_nobody_can_run_waits_and_says_so(start: Start, outside: asyncpg.Connection) -> None:
    old, new = App("versions"), App("versions")
    define(old)
    async with start(old):
        run = await started(old, "waiter", 7, "a")
        await until(lambda: waits(run))

    @new.workflow("waiter", version=2)
    async def waiter(wf: Wf, n: int) -> int:
        return n

    async with start(new):
        await new.ctx.workflow.signal("a", go, 1)
        assert (await new.ctx.workflow.get("a")).why == "no live process can run waiter v1"
        async with new.transaction() as ctx:
            handle = await ctx.workflow.start(waiter, 3)
        assert await new.ctx.workflow.result(handle.id, timeout=10) == 3
    async with start(old):
        assert await old.ctx.workflow.result("a", timeout=10) == 8


async def test_ended_runs_are_forgotten_after_their_time_and_living_ones_never(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("forgets")
    define(app)
    async with start(app):
        run, living = await started(app, "waiter", 1, "a"), await started(app, "waiter", 2, "b")
        await run.signal(go, 1, dedupe="k")
        assert await run.result(timeout=10) == 2
        await until(lambda: waits(living))
    await outside.execute(
        "update chimpbase.run set started_at = 'epoch', finished_at = finished_at - interval '1 year'"
    )
    async with start(app, run_retention=timedelta(days=100)):
        await until(lambda: outside.fetchval("select not exists (select from chimpbase.run where id = 'a')"))
        left = await outside.fetch("select distinct run from chimpbase.step")
        keys = await outside.fetchval("select count(*) from chimpbase.signal_key")
    assert (len(left), keys) == (1, 0)
