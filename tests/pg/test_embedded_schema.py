"""On the embedded server the application's tables are its own, also when they are called like ours."""

from __future__ import annotations

import asyncpg
import pytest

from chimpbase import App, Ctx
from tests.running import Start, is_idle, outside, start, the_value
from tests.waiting import until

__all__ = ["outside", "start"]
pytestmark = pytest.mark.anyio


async def test_a_table_called_job_is_the_applications(start: Start, outside: asyncpg.Connection) -> None:
    app = App("names")

    @app.worker("note")
    async def note(ctx: Ctx, text: str) -> None:
        await ctx.db.execute("insert into job values ($1)", text)

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.db.execute("create table job (note text)")
            await ctx.queue.enqueue("note", "mine")
        await until(lambda: is_idle(outside))
    assert await the_value(outside, "select note from public.job") == "mine"
