"""Handlers that meddle with their transaction, or ignore what became of it: refused, never silently lost."""

from __future__ import annotations

import asyncpg
import pytest

from chimpbase import App, Ctx
from chimpbase._core.errors import DatabaseError, QueryError, UniqueViolation, UsageError
from tests.running import Start, notes

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("sql", ["commit", " COMMIT;", "rollback", "begin", "savepoint a", "end"])
async def test_ctx_db_refuses_to_end_the_transaction(start: Start, outside: asyncpg.Connection, sql: str) -> None:
    app = App("shop")

    @app.action
    async def meddle(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('meddle', 'never')")
        await ctx.db.execute(sql)

    async with start(app, workers=False):
        with pytest.raises(UsageError, match="the transaction belongs to ctx"):
            await app.call(meddle)
        assert await notes(outside) == []


async def test_a_hidden_commit_is_noticed(start: Start, outside: asyncpg.Connection) -> None:
    app = App("shop")

    @app.action
    async def meddle(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('meddle', 'before')")
        await ctx.db.execute("/* hidden */ commit")

    async with start(app, workers=False):
        with pytest.raises(UsageError, match="ended its transaction"):
            await app.call(meddle)


async def test_a_caught_database_error_cannot_pass_for_success(start: Start, outside: asyncpg.Connection) -> None:
    app = App("shop")
    called: list[str] = []

    @app.action
    async def careless(ctx: Ctx) -> str:
        ctx.on_commit(lambda: called.append("committed"))
        await ctx.db.execute("insert into ledger values ('careless', 'lost')")
        with pytest.raises(DatabaseError):
            await ctx.db.execute("select 1 / 0")
        return "all is well"

    async with start(app, workers=False):
        with pytest.raises(QueryError, match="caught a database error and went on"):
            await app.call(careless)
        assert await notes(outside) == []
        assert called == []


async def test_a_savepoint_lets_a_handler_go_on_after_a_database_error(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shop")
    await outside.execute("create unique index on ledger (note)")

    @app.action
    async def once(ctx: Ctx, note: str) -> bool:
        try:
            async with ctx.savepoint() as inner:
                await inner.db.execute("insert into ledger values ('once', $1)", note)
        except UniqueViolation:
            await ctx.db.execute("insert into ledger values ('once', $1)", f"{note} again")
            return False
        return True

    async with start(app, workers=False):
        assert [await app.call(once, "a"), await app.call(once, "a")] == [True, False]
        assert await notes(outside) == ["a", "a again"]
