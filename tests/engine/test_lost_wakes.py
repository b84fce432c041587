"""A connection that dies while an activation serves what woke it: the run goes on, and nothing waits for ever."""

from __future__ import annotations

import asyncpg
import pytest

from chimpbase import App, Signal, Update, Wf
from tests.running import Ear, Start, listen_to_engine
from tests.waiting import until

pytestmark = pytest.mark.anyio
go = Signal("go", int)
change = Update("change", int, int)


async def test_a_wake_whose_serving_fails_is_served_by_the_next_activation(
    start: Start, outside: asyncpg.Connection
) -> None:
    """The signal comes before the run may rest, and the connection dies as it is taken."""
    app, sent, died = App("late"), list[str](), list[str]()

    @app.workflow("waiter")
    async def waiter(wf: Wf) -> int | None:
        return await wf.wait(go)

    async def disturb(sql: str) -> None:
        if "runs.suspend" in sql and not sent:
            sent.append(sql)
            await outside.execute("select chimpbase.signal('a', 'go', '5')")
        elif "runs.consume" in sql and sent and not died:
            died.append(sql)
            raise ConnectionResetError("gone")

    async with start(app) as runtime:
        listen_to_engine(runtime, Ear(before=disturb))
        async with app.transaction() as ctx:
            await ctx.workflow.start(waiter, id="a")
        assert await app.ctx.workflow.result("a", timeout=10) == 5
        assert died


@pytest.mark.parametrize("statement", ["runs.consume", "runs.memo", "runs.add_reply"])
async def test_an_update_whose_answer_fails_is_answered_by_the_next_activation(
    start: Start, outside: asyncpg.Connection, statement: str
) -> None:
    app, asked, died = App("late"), list[str](), list[str]()

    @app.workflow("editable")
    async def editable(wf: Wf) -> int:
        known = [0]

        def set_to(value: int) -> int:
            known.append(value)
            return known[-2]

        wf.on(change, set_to)
        await wf.wait(go)
        return known[-1]

    async def disturb(sql: str) -> None:
        if asked and statement in sql and not died:
            died.append(sql)
            raise ConnectionResetError("gone")

    async with start(app) as runtime:
        async with app.transaction() as ctx:
            await ctx.workflow.start(editable, id="a")

        async def waits() -> bool:
            return (await app.ctx.workflow.get("a")).status == "waiting"

        await until(waits)
        listen_to_engine(runtime, Ear(before=disturb))
        asked.append("now")
        assert await app.ctx.workflow.update("a", change, 7, timeout=10) == 0
        await app.ctx.workflow.signal("a", go, 1)
        assert await app.ctx.workflow.result("a", timeout=10) == 7
        assert died
