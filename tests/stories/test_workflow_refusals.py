"""Bad input of workflows: each is a typed error, and the run is as it was."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Handle, Retry, Signal, Update, Wf, errors, step
from tests.running import Ear, Start, listen_to_engine, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio


@dataclass
class Payment:
    amount: int


paid = Signal("paid", Payment)
set_quantity = Update("set-quantity", int, Payment)
wrong_reply = Update("wrong-reply", int, int)


@step(retry=Retry(max_attempts=1))
async def answer_with_a_set(ctx: Ctx) -> Any:
    await ctx.db.execute("insert into ledger values ('step', 'never')")
    return {object()}


@step(retry=Retry(max_attempts=1))
async def fail_with_any_text(ctx: Ctx) -> None:
    raise ValueError("nul \x00, " + "long " * 5000)


@pytest.fixture
async def app(start: Start, outside: asyncpg.Connection) -> AsyncIterator[App]:
    app = App("refusals")

    @app.workflow("shop", version=2)
    async def shop(wf: Wf, quantity: int) -> Payment:
        known = [quantity]

        def change(to: int) -> Payment:
            known[0] = to
            return Payment(to)

        def few(to: int) -> None:
            if to > 10:
                raise ValueError("ten at most")

        wf.on(set_quantity, change, validator=few)
        wf.on(wrong_reply, lambda to: "text")  # type: ignore[arg-type, return-value]
        await wf.wait(paid)
        return Payment(known[0])

    @app.workflow("unserialisable")
    async def unserialisable(wf: Wf) -> str:
        try:
            await answer_with_a_set(wf)
        except errors.StepFailed as error:
            return str(error)
        return "stored"

    @app.workflow("any-text")
    async def any_text(wf: Wf) -> None:
        await fail_with_any_text(wf)

    async with start(app):
        yield app


@pytest.fixture
async def run(app: App) -> Handle[Any]:
    """A run that waits to be paid."""
    async with app.transaction() as ctx:
        await ctx.workflow.start("shop", 1, id="a")
    handle = app.ctx.workflow.handle("a")

    async def waits() -> bool:
        return (await handle.get()).status == "waiting"

    await until(waits)
    return handle


async def test_an_unknown_workflow_and_an_unknown_version_are_refused(app: App, outside: asyncpg.Connection) -> None:
    with pytest.raises(errors.NotRegistered, match="'nothing'"):
        await app.ctx.workflow.start("nothing", 1)
    with pytest.raises(asyncpg.PostgresError, match="no workflow named 'shop' in version 7") as caught:
        await outside.execute("select chimpbase.start_workflow('shop', '1', '{\"version\": 7}')")
    assert getattr(caught.value, "sqlstate", None) == "CB001"
    assert await outside.fetchval("select count(*) from chimpbase.run") == 0


async def test_an_id_in_use_is_refused_and_the_transaction_goes_on(app: App, run: Handle[Any]) -> None:
    async with app.transaction() as ctx:
        with pytest.raises(errors.AlreadyStarted, match="'a'"):
            await ctx.workflow.start("shop", 2, id="a")
        await ctx.workflow.start("shop", 2, id="b")
    assert (await run.get()).input == 1
    assert (await app.ctx.workflow.get("b")).input == 2


@pytest.mark.parametrize("payload", [7, {"amount": "seven"}, None])
async def test_a_signal_of_the_wrong_type_is_refused_where_it_is_sent(app: App, run: Handle[Any], payload: Any) -> None:
    with pytest.raises(errors.PayloadError, match="payload of signal 'paid'"):
        await app.ctx.workflow.signal("a", paid, payload)
    with pytest.raises(errors.PayloadError, match="run id"):
        await app.ctx.workflow.signal("", paid, Payment(1))
    assert (await run.get()).status == "waiting"
    await run.signal(paid, Payment(1))
    assert await app.ctx.workflow.result("a", timeout=10) == Payment(1)


async def test_a_signal_of_the_wrong_type_from_sql_fails_the_run_that_reads_it(
    app: App, run: Handle[Any], outside: asyncpg.Connection
) -> None:
    await outside.execute("select chimpbase.signal('a', 'paid', '7')")
    with pytest.raises(errors.WorkflowFailed, match="payload of signal 'paid'"):
        await run.result(timeout=10)
    assert [entry.key for entry in await run.history()] == ["wait:paid#1"]


async def test_a_signal_to_a_finished_run_is_refused(app: App, run: Handle[Any]) -> None:
    await run.signal(paid, Payment(1))
    await run.result(timeout=10)
    with pytest.raises(errors.WrongState, match="has ended and takes no signals; it is completed") as caught:
        await run.signal(paid, Payment(2))
    assert caught.value.state == "completed"


async def test_an_update_is_validated_and_its_reply_typed(app: App, run: Handle[Any]) -> None:
    with pytest.raises(errors.PayloadError, match="payload of update 'set-quantity'"):
        await run.update(set_quantity, "three", timeout=10)  # type: ignore[arg-type]
    with pytest.raises(errors.UpdateRefused, match="ten at most"):
        await run.update(set_quantity, 11, timeout=10)
    assert await run.update(set_quantity, 3, timeout=10) == Payment(3)
    with pytest.raises(errors.UpdateRefused, match="result of update 'wrong-reply'"):
        await run.update(wrong_reply, 1, timeout=10)
    await run.signal(paid, Payment(1))
    assert await run.result(timeout=10) in (Payment(3), {"amount": 3})
    with pytest.raises(errors.WrongState):
        await run.update(set_quantity, 3, timeout=10)


async def test_an_update_is_sent_to_a_run_that_it_starts(app: App) -> None:
    async with app.transaction() as ctx:
        await ctx.workflow.start("shop", 1, id="u", on_conflict="use_existing")
    assert await app.ctx.workflow.update("u", set_quantity, 4, timeout=10) == Payment(4)


async def test_a_result_that_is_no_value_of_json_fails_its_step_and_takes_its_writes_back(
    app: App, outside: asyncpg.Connection
) -> None:
    async with app.transaction() as ctx:
        await ctx.workflow.start("unserialisable", id="n")
    assert "result of step 'answer_with_a_set'" in await app.ctx.workflow.result("n", timeout=10)
    assert await notes(outside) == []


async def test_a_failure_of_any_text_is_stored(app: App) -> None:
    async with app.transaction() as ctx:
        await ctx.workflow.start("any-text", id="t")
    with pytest.raises(errors.WorkflowFailed, match="nul"):
        await app.ctx.workflow.result("t", timeout=10)
    assert (await app.ctx.workflow.get("t")).status == "failed"


async def test_a_lazy_step_is_not_waited_for_and_done_again_when_its_row_was_lost(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, looks, deaths = App("lazy"), list[int](), list[str]()

    @step(durable="lazy")
    async def look(ctx: Ctx) -> int:
        looks.append(1)
        return len(looks)

    @step
    async def write(ctx: Ctx, note: int) -> int:
        await ctx.db.execute("insert into ledger values ('step', $1)", str(note))
        return note

    @app.workflow("flow")
    async def flow(wf: Wf) -> list[int]:
        first = await look(wf)
        before = len(deaths)  # its row is not awaited, and so not lost yet
        return [before, first, await write(wf, 7), await look(wf)]

    def die(sql: str) -> None:
        if "runs.memo" in sql and not deaths:
            deaths.append(sql)
            raise ConnectionResetError("gone")

    async with start(app) as runtime:
        listen_to_engine(runtime, Ear(before=die))
        async with app.transaction() as ctx:
            await ctx.workflow.start(flow, id="a")
        result = await app.ctx.workflow.result("a", timeout=10)
    assert result == [1, 2, 7, 3]
    assert (len(looks), len(deaths), await notes(outside)) == (3, 1, ["7"])
    rows = await outside.fetch("select key, result from chimpbase.step order by seq")
    assert [tuple(row) for row in rows] == [("look#1", "2"), ("write#1", "7"), ("look#2", "3")]


async def test_a_lazy_step_that_is_slow_to_be_written_is_not_remembered_in_the_next_round(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, looks = App("round"), list[int]()

    @step(durable="lazy")
    async def look(ctx: Ctx) -> int:
        looks.append(1)
        return len(looks)

    @app.workflow("flow")
    async def flow(wf: Wf, round: int) -> int:
        seen = await look(wf)
        if round == 1:
            await wf.continue_as(2)
        await wf.sleep(0.3)
        return seen

    async with start(app):
        await outside.execute("""
            create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.2); return new; end';
            create trigger slow before insert on chimpbase.step for each row execute function slow();
        """)
        await app.ctx.workflow.start(flow, 1, id="a")
        assert await app.ctx.workflow.result("a", timeout=10) == 2


async def test_lost_rows_that_nobody_waits_for_are_no_complaint_of_the_event_loop(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    # what is logged with its traceback holds the rows, and no row complains while it is held
    caplog.set_level("CRITICAL", logger="chimpbase")
    complaints: list[dict[str, Any]] = []
    app, begun = App("patched"), list[int]()

    @app.workflow("flow")
    async def flow(wf: Wf) -> list[bool]:
        begun.append(1)
        return [wf.patched("a"), wf.patched("b")]

    def die(sql: str) -> None:
        if "runs.memo" in sql and len(begun) == 1:
            raise ConnectionResetError("gone")

    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with start(app) as runtime:
        listen_to_engine(runtime, Ear(before=die))
        await app.ctx.workflow.start(flow, id="a")
        assert await app.ctx.workflow.result("a", timeout=10) == [True, True]
    gc.collect()
    assert (len(begun), complaints) == (2, [])
