"""Bind: the caller's connection is taken as it is, with the settings its owner has given it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.rows import class_row, dict_row
from psycopg.types.json import set_json_loads
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from chimpbase import App, Ctx, SyncCtx
from chimpbase._core.errors import DatabaseError, QueryError, Unreachable, UsageError
from tests.app.bind.callers import Asyncpg, Caller, Django, calling, sqlalchemy_url
from tests.app.bind.shop import Ship, ships
from tests.running import left_over

pytestmark = pytest.mark.anyio

psycopg_connect: Any = psycopg.connect  # its type knows no row factory but the default
JSON = "select $1::jsonb as doc, '{\"a\": 1}'::json as other, '[2]'::text as plain"


async def test_psycopg_keeps_its_row_factory_and_cursor_class(app: App, dsn: str, outside: asyncpg.Connection) -> None:
    with psycopg_connect(dsn, row_factory=dict_row) as connection:
        connection.cursor_factory = psycopg.RawCursor
        ctx = app.bind(connection)
        ctx.queue.enqueue(ships, Ship("100%"))
        assert ctx.db.fetch_one(JSON, [1]) == {"doc": [1], "other": {"a": 1}, "plain": "[2]"}
        assert connection.execute("select 1 as one").fetchone() == {"one": 1}
    assert await left_over(outside) == {"job": 1}


@pytest.mark.parametrize("cursor", [psycopg.ClientCursor, psycopg.Cursor, psycopg.RawCursor])
def test_every_cursor_class_of_psycopg_writes_values_alike(app: App, dsn: str, cursor: Any) -> None:
    with psycopg_connect(dsn, row_factory=class_row(Ship), cursor_factory=cursor) as connection:
        ctx = app.bind(connection)
        row = ctx.db.fetch_one("select $2::text as b, ($1::int)::text as a, $2::text as c", -5, "it's 5%")
        assert row == {"b": "it's 5%", "a": "-5", "c": "it's 5%"}
        ctx.queue.enqueue(ships, Ship("a"))
        assert ctx.db.fetch_value("select count(*) from chimpbase.job") == 1


async def test_psycopg_may_decode_json_its_own_way(app: App, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        set_json_loads(lambda data: data, connection)
        assert (await app.bind(connection).db.fetch_one(JSON, "5"))["doc"] == "5"  # type: ignore[index]


@pytest.mark.parametrize("kind", ["json", "jsonb"])
async def test_asyncpg_may_have_a_codec_for_json(app: App, dsn: str, kind: str) -> None:
    async with calling(Asyncpg, dsn) as caller, caller.bindable.transaction():
        connection = caller.bindable
        await connection.set_type_codec(kind, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        ctx = app.bind(connection)
        for value in ({"a": [1]}, [1, "2"], "5", 5, None):
            assert (await ctx.db.fetch_one(JSON, value)) == {"doc": value, "other": {"a": 1}, "plain": "[2]"}
            assert (await ctx.db.fetch_value("select $1::json", value)) == value


async def test_asyncpg_keeps_its_record_class(app: App, dsn: str) -> None:
    class Mine(asyncpg.Record):
        pass

    connection = await asyncpg.connect(dsn, record_class=Mine, statement_cache_size=0)
    async with connection.transaction(isolation="serializable"):
        ctx = app.bind(connection)
        await ctx.queue.enqueue(ships, Ship("a"))
        assert await ctx.db.fetch("select 1 as one, 2 as one, 3 as two") == [{"one": 2, "two": 3}]
    await connection.close()


async def test_the_callers_isolation_holds_for_what_is_read(
    app: App, caller: Caller, outside: asyncpg.Connection
) -> None:
    ctx: Any = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    await caller.execute("set transaction isolation level repeatable read")
    assert await caller.do(ctx.kv.get, "a", "none") == "none"
    await outside.execute("insert into chimpbase.kv (key, value) values ('a', '1')")
    assert await caller.do(ctx.kv.get, "a", "none") == "none"
    await caller.commit()
    await caller.begin()
    assert await caller.do(ctx.kv.get, "a", "none") == 1
    await caller.rollback()


async def test_one_session_uses_its_own_tables_and_ours_in_one_transaction(
    app: App, dsn: str, outside: asyncpg.Connection
) -> None:
    engine = create_engine(sqlalchemy_url(dsn, "psycopg"), isolation_level="SERIALIZABLE")
    with Session(engine) as session, session.begin():
        session.execute(text("insert into ledger values ('session', :note)"), {"note": "mine"})
        ctx = app.bind(session)
        assert ctx.db.fetch("select note from ledger") == [{"note": "mine"}]
        assert ctx.db.fetch_value("show transaction_isolation") == "serializable"
        ctx.queue.enqueue(ships, Ship("a"))
    engine.dispose()
    assert await left_over(outside) == {"job": 1}


async def test_autocommit_is_refused(app: App, dsn: str, outside: asyncpg.Connection) -> None:
    refused: list[Any] = []
    raw = await asyncpg.connect(dsn)
    refused.append(app.bind(raw))
    with psycopg.connect(dsn, autocommit=True) as one:
        refused.append(app.bind(one))
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as two:
            refused.append(app.bind(two))
            engine = create_engine(sqlalchemy_url(dsn, "psycopg"), isolation_level="AUTOCOMMIT")
            async_engine = create_async_engine(sqlalchemy_url(dsn, "asyncpg"), isolation_level="AUTOCOMMIT")
            with Session(engine) as session:
                refused.append(app.bind(session))
                async with AsyncSession(async_engine) as async_session:
                    refused.append(app.bind(async_session))
                    for ctx in refused:
                        with pytest.raises(UsageError, match="ride"):
                            if isinstance(ctx, SyncCtx):
                                ctx.queue.enqueue(ships, Ship("a"))
                            else:
                                await ctx.queue.enqueue(ships, Ship("a"))
            engine.dispose()
            await async_engine.dispose()
            with one.transaction():
                refused[1].queue.enqueue(ships, Ship("a"))
            async with two.transaction():
                await refused[2].queue.enqueue(ships, Ship("a"))
    await raw.close()
    assert await left_over(outside) == {"job": 2}


async def test_django_without_atomic_is_refused(app: App, dsn: str, outside: asyncpg.Connection) -> None:
    async with calling(Django, dsn) as caller:
        ctx = await caller.do(app.bind, caller.bindable)
        with pytest.raises(UsageError, match="atomic"):
            await caller.do(ctx.queue.enqueue, ships, Ship("a"))
    assert await left_over(outside) == {}


async def test_a_ctx_kept_past_the_commit_of_asyncpg_is_refused(app: App, dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        ctx = app.bind(connection)
        await ctx.kv.set("a", 1)
    with pytest.raises(UsageError, match="No transaction is open"):
        await ctx.kv.set("a", 2)
    await connection.close()
    with pytest.raises((UsageError, DatabaseError)):
        await ctx.kv.set("a", 2)


async def test_a_connection_that_is_gone_is_unreachable(app: App, caller: Caller, outside: asyncpg.Connection) -> None:
    ctx: Any = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    pid = await caller.do(ctx.db.fetch_value, "select pg_backend_pid()")
    await outside.execute("select pg_terminate_backend($1, 5000)", pid)
    with pytest.raises(Unreachable):
        await caller.do(ctx.queue.enqueue, ships, Ship("a"))
    with pytest.raises((DatabaseError, UsageError)):
        await caller.do(ctx.queue.enqueue, ships, Ship("a"))
    assert await left_over(outside) == {}


async def test_a_pools_connection_that_is_gone_is_unreachable_before_and_after_the_pool_hears_of_it(
    app: App, dsn: str, outside: asyncpg.Connection
) -> None:
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
    for heard in (False, True):
        connection = await pool.acquire()
        ctx: Any = app.bind(connection)
        await connection.execute("begin")
        pid = connection.get_server_pid()
        if heard:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda *_, lost=lost: lost.set())
            await outside.execute("select pg_terminate_backend($1, 5000)", pid)
            await asyncio.wait_for(lost.wait(), 10)
        else:
            # with a driver that blocks, so that this loop hears nothing of it
            with psycopg.connect(dsn, autocommit=True) as killer:
                killer.execute("select pg_terminate_backend(%s, 5000)", [pid])
        for _ in range(2):
            with pytest.raises(Unreachable):
                await ctx.queue.enqueue(ships, Ship("a"))
        await pool.release(connection)
    await pool.close()
    assert await left_over(outside) == {}


async def test_a_connection_given_back_to_its_pool_is_not_called_unreachable(app: App, dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            ctx = app.bind(connection)
        with pytest.raises(QueryError, match="released"):
            await ctx.queue.enqueue(ships, Ship("a"))


async def test_a_database_without_our_schema_is_told_of(app: App, server_dsn: str) -> None:
    with psycopg.connect(server_dsn) as connection, pytest.raises(QueryError, match='"chimpbase.queue" does not exist'):
        app.bind(connection).queue.enqueue(ships, Ship("a"))


async def test_what_is_no_connection_is_refused(app: App) -> None:
    for nothing in (None, 5, "postgresql://here", app, create_engine("sqlite://")):
        with pytest.raises(UsageError, match="cannot be bound"):
            app.bind(nothing)
    with create_engine("sqlite://").connect() as other, pytest.raises(UsageError, match="sqlite"):
        app.bind(other).queue.enqueue(ships, Ship("a"))


async def test_an_async_action_on_a_sync_connection_may_await_only_ctx(app: App, dsn: str) -> None:
    @app.action
    async def wander(ctx: Ctx) -> None:
        await ctx.kv.set("a", 1)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await future

    with psycopg.connect(dsn) as connection:
        ctx = app.bind(connection)
        with pytest.raises(UsageError, match="may await nothing but ctx"):
            ctx.call(wander)
        assert ctx.kv.get("a") is None
