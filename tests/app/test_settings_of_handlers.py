"""Settings: what a handler does to its session is over with its transaction, and the next handler never sees it."""

from __future__ import annotations

from typing import Any

import pytest

from chimpbase import App, Ctx
from chimpbase._pg.lexer import may_last
from tests.running import Start

pytestmark = pytest.mark.anyio

MEDDLING = [
    "set search_path = pg_catalog",
    "set role pg_read_all_data",
    "set session authorization pg_read_all_data",
    "set statement_timeout = '50ms'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "/* a comment */ set datestyle = 'German'",
    "-- another\n  set work_mem = '65kB'",
    "select set_config('search_path', 'pg_catalog', false)",
    "select set_config('role', 'pg_read_all_data', false)",
    "do $$ begin perform set_config('work_mem', '65kB', false); end $$",
    "do $$ begin set role pg_read_all_data; end $$",
    "set default_transaction_read_only = on",
    "set session characteristics as transaction read only",
    "listen something",
    "create temp table secret_of_mine (n int)",
    "select pg_advisory_lock(7)",
    "declare mine cursor with hold for select 1",
]
ASKED = """
    select current_user::text, session_user::text, current_setting('search_path'), current_setting('work_mem'),
      current_setting('statement_timeout'), current_setting('datestyle'), current_setting('timezone'),
      current_setting('default_transaction_read_only'), to_regclass('pg_temp.secret_of_mine')::text,
      (select count(*) from pg_listening_channels()), (select count(*) from pg_cursors),
      (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
"""


@pytest.mark.parametrize("verb", ["execute", "fetch", "fetch_value"])
async def test_what_a_handler_sets_is_gone_for_the_next(start: Start, verb: str) -> None:
    app, seen = App("settings"), dict[str, Any]()

    @app.action
    async def meddle(ctx: Ctx, sql: str) -> None:
        await getattr(ctx.db, verb)(sql)

    @app.action
    async def ask(ctx: Ctx) -> list[Any]:
        return list((await ctx.db.fetch(ASKED))[0].values())

    async with start(app, pool_size=1, workers=False) as runtime:
        before = await runtime.call(ask)
        for sql in MEDDLING:
            await runtime.call(meddle, sql)
            seen[sql] = await runtime.call(ask)
    assert [sql for sql, after in seen.items() if after != before] == []


@pytest.mark.parametrize(
    "sql",
    [
        "select set_config('app.tenant', $1, true)",
        "select chimpbase.clock(), set_config('app.tenant', $1 , TRUE )",
        "set local role pg_read_all_data",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "set constraints all deferred",
        "update settings set a = 1",
        "select pg_advisory_xact_lock(7)",
        "create table settings (temp int)",
    ],
)
def test_what_ends_with_its_transaction_costs_no_cleaning(sql: str) -> None:
    assert not may_last(sql)
