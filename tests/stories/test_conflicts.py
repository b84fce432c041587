"""Conflicts of runs: an answer to our own clients, whose transaction goes on; an SQLSTATE of ours in plain SQL."""

from __future__ import annotations

import asyncpg
import pytest

from chimpbase import App, Signal, Wf
from chimpbase._core.errors import AlreadyStarted, NotFound, WrongState
from tests.running import Start, notes

pytestmark = pytest.mark.anyio

go = Signal("go", int)


async def test_a_conflict_that_is_caught_leaves_the_transaction_usable(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("conflicts")

    @app.workflow("done")
    async def done(wf: Wf) -> None: ...

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(done, id="a")
            await ctx.workflow.start(done, id="later", delay=3600)
        async with app.transaction() as ctx:
            await ctx.workflow.result("a", timeout=10)
        async with app.transaction() as ctx:
            with pytest.raises(AlreadyStarted):
                await ctx.workflow.start(done, id="a")
            with pytest.raises(AlreadyStarted):
                await ctx.workflow.start(done, id="later", delay=1)
            with pytest.raises(WrongState):
                await ctx.workflow.signal("a", go, 1)
            with pytest.raises(NotFound):
                await ctx.workflow.signal("b", go, 1)
            await ctx.db.execute("insert into ledger values ('after', 'went on')")
        assert await notes(outside) == ["went on"]


async def test_the_same_conflicts_are_errors_of_their_own_in_plain_sql(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("conflicts")

    @app.workflow("done")
    async def done(wf: Wf) -> None: ...

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(done, id="a")
        async with app.transaction() as ctx:
            await ctx.workflow.result("a", timeout=10)
    wrong = {
        "select chimpbase.start_workflow('dome')": "CB001",
        """select chimpbase.start_workflow('done', 'null', '{"version": 7}')""": "CB001",
        """select chimpbase.start_workflow('done', 'null', '{"id": "a"}')""": "CB003",
        "select chimpbase.signal('a', 'go')": "CB004",
        "select chimpbase.signal('b', 'go')": "CB005",
    }
    for sql, state in wrong.items():
        with pytest.raises(asyncpg.PostgresError) as caught:
            await outside.execute(sql)
        assert getattr(caught.value, "sqlstate", None) == state, sql
