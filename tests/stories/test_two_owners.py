"""Two owners of one run: a lease that was taken away while a step ran. One memo, one effect, whoever ends first."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Wf, step
from tests.running import Start, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Gate:
    """Where the calls of a step wait, each for its turn."""

    def __init__(self) -> None:
        self.entered = 0
        self.turns = [asyncio.Event(), asyncio.Event()]

    async def pass_through(self) -> int:
        mine, self.entered = self.entered, self.entered + 1
        await self.turns[mine].wait()
        return mine


def build(gate: Gate, kind: str) -> App:
    app = App("owners")

    @step
    async def charge(ctx: Ctx) -> str:
        await ctx.db.execute("insert into ledger values ('step', 'charged')")
        return f"owner {await gate.pass_through()}"

    async def pay() -> str:
        return f"owner {await gate.pass_through()}"

    @app.workflow("flow", concurrency=1)
    async def flow(wf: Wf) -> Any:
        if kind == "transactional":
            return await charge(wf)
        if kind == "plain":
            return await wf.step("pay", pay)
        async with wf.tx("block") as db:
            await db.execute("insert into ledger values ('step', 'charged')")
            turn = await gate.pass_through() if gate.entered < 2 else 0
        return f"owner {turn}"

    return app


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", ["transactional", "plain", "block"])
async def test_two_owners_forced_on_one_run_leave_one_memo_and_no_second_effect(
    start: Start, outside: asyncpg.Connection, kind: str, first: int
) -> None:
    gate = Gate()
    robbed, robber = build(gate, kind), build(gate, kind)
    async with start(robbed):
        async with robbed.transaction() as ctx:
            await ctx.workflow.start("flow", id="a")
        await until(lambda: gate.entered == 1)
        await outside.execute("update chimpbase.job set process = null")
        async with start(robber):
            await until(lambda: gate.entered == 2)
            gate.turns[first].set()
            if first == 1:
                assert await robber.ctx.workflow.result("a", timeout=10) is not None
            else:  # the robbed one ends first, and cannot commit any more
                await until(lambda: outside.fetchval("select not exists (select from chimpbase.step)"))
            gate.turns[1 - first].set()
            result = await robber.ctx.workflow.result("a", timeout=10)
    assert kind == "block" or result == "owner 1"
    memos = await outside.fetch("select key, result from chimpbase.step")
    assert len(memos) == 1
    assert await notes(outside) == ([] if kind == "plain" else ["charged"])
