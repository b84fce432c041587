"""SystemExit out of the application's code ends what raised it, never the program around it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from chimpbase import App, Ctx, Retry, Wf, step
from chimpbase._core.errors import WorkflowFailed
from tests.running import Start, is_idle, notes

pytestmark = pytest.mark.anyio


@step(retry=Retry(max_attempts=1))
async def exiting(ctx: Ctx) -> None:
    await ctx.db.execute("insert into ledger values ('step', 'never')")
    raise SystemExit(3)


@pytest.mark.parametrize("branches", [1, 2])
async def test_an_exit_in_a_step_fails_its_run_and_nothing_else(
    start: Start, outside: asyncpg.Connection, branches: int
) -> None:
    app = App("exits")

    @app.workflow("exits")
    async def exits(wf: Wf) -> None:
        if branches == 1:
            await exiting(wf)
        await asyncio.gather(*(exiting(wf) for _ in range(branches)))

    async with start(app):
        async with app.transaction() as ctx:
            id = await ctx.workflow.start(exits)
        with pytest.raises(WorkflowFailed, match="SystemExit"):
            async with app.transaction() as ctx:
                await ctx.workflow.result(id, timeout=10)
        assert await is_idle(outside)
        assert await notes(outside) == []
