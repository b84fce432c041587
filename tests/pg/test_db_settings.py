"""What a connection carries: settings, codecs, the shifted clock; and what may be wrong with them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest

from chimpbase._core.errors import (
    ConfigError,
    StatementTimeout,
    Unreachable,
)
from chimpbase._pg.db import Db
from tests.pg.proxy import proxy_before

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="shop lanes", size=3)
    yield db
    await db.close(grace=SECOND)


async def test_each_connection_carries_our_settings(dsn: str) -> None:
    db = await Db.open(
        dsn,
        application_name="shop",
        session={"enable_seqscan": "off", "lock_timeout": "3s"},
        budget=timedelta(seconds=5),
    )
    shown = await db.fetch_one(
        "select current_setting('enable_seqscan') as seqscan, current_setting('lock_timeout') as lock_timeout,"
        " current_setting('application_name') as name, current_setting('timezone') as zone,"
        " current_setting('jit') as jit, current_setting('client_connection_check_interval') as check,"
        " current_setting('idle_in_transaction_session_timeout') as idle"
    )
    assert shown is not None
    assert dict(shown) == {
        "seqscan": "off",
        "lock_timeout": "3s",
        "name": "shop",
        "zone": "UTC",
        "jit": "off",
        "check": "500ms",
        "idle": "1min",
    }
    assert db.server_version >= 140000
    assert not db.pooled
    await db.close(grace=SECOND)


async def test_a_lock_that_is_not_had_is_reported_before_the_budget_ends(dsn: str, db: Db) -> None:
    await db.execute("create table t (a int)")
    short = await Db.open(dsn, application_name="test", budget=timedelta(milliseconds=500))
    async with db.transaction() as holder:
        await holder.execute("lock table t")
        async with short.acquire() as connection:
            with pytest.raises(StatementTimeout, match="holds the lock") as caught:
                await connection.execute("insert into t values (1)")
            assert caught.value.sqlstate == "55P03"
            assert not connection.is_closed
    await short.close(grace=SECOND)


async def test_a_pooler_that_refuses_startup_parameters_is_met_without_them(dsn: str) -> None:
    async with proxy_before(dsn) as proxy:
        proxy.refuse_parameters("jit", "client_connection_check_interval")
        db = await Db.open(proxy.dsn, application_name="shop", session={"enable_seqscan": "off"}, size=2)
        assert db.pooled
        assert await db.fetch_value("show application_name") == "shop"
        assert await db.fetch_value("show enable_seqscan") == "on"
        async with db.acquire() as connection:
            await connection.fetch("select 1")
            assert await connection.fetch_value("select count(*) from pg_prepared_statements") == 0
        accepted = proxy.accepted
        async with db.acquire(), db.acquire():
            pass
        assert proxy.accepted == accepted + 1
        await db.close(grace=SECOND)


async def test_prepared_statements_lost_to_a_pooler_turn_them_off(db: Db) -> None:
    async with db.acquire() as connection:
        await connection.fetch("select 1 as one")
        await connection.execute("deallocate all")
        with pytest.raises(Unreachable, match="pooler in transaction mode") as caught:
            await connection.fetch("select 1 as one")
    assert caught.value.transient
    assert db.pooled
    assert await db.fetch_value("select 1 as one") == 1


async def test_json_is_text_unless_asked_for(dsn: str, db: Db) -> None:
    assert await db.fetch_value("""select '{"a": [1]}'::jsonb""") == '{"a": [1]}'
    assert await db.fetch_value("select $1::jsonb ->> 'a'", '{"a": "b"}') == "b"

    class Point(msgspec.Struct):
        x: int

    values = await Db.open(dsn, application_name="test", json=True)
    for kind in ("json", "jsonb"):
        value = {"a": [1, 2.5, None, True, "é"], "b": {}}
        assert await values.fetch_value(f"select $1::{kind}", value) == value
        assert await values.fetch_value(f"select $1::{kind}", Point(3)) == {"x": 3}
        assert await values.fetch_value(f"select null::{kind}") is None
        assert await values.fetch_value(f"select array[$1]::{kind}[]", "text") == ["text"]
    async with values.acquire() as connection:
        await connection.execute("create temp table t (a jsonb)")
        await connection.copy_in("t", [({"n": 1},)], columns=["a"])
        assert await connection.fetch_value("select a from t") == {"n": 1}
    await values.close(grace=SECOND)


async def test_a_shifted_clock_reaches_every_connection(db: Db) -> None:
    read = "select coalesce(nullif(current_setting('chimpbase.clock_shift', true), ''), '0')::interval"
    async with db.acquire() as early:
        db.shift_clock(timedelta(hours=-1, microseconds=1))
        async with db.acquire() as late:
            assert await late.fetch_value(read) == timedelta(hours=-1, microseconds=1)
        assert await early.fetch_value(read) == timedelta(0)
    assert set(await asyncio.gather(*(db.fetch_value(read) for _ in range(6)))) == {timedelta(hours=-1, microseconds=1)}
    db.shift_clock(timedelta(0))
    assert await db.fetch_value(read) == timedelta(0)


async def test_a_wrong_database_or_setting_is_a_configuration_error(dsn: str, server_dsn: str) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        await Db.open(dsn.replace("/test_", "/other_"), application_name="test")
    with pytest.raises(ConfigError, match="work_mem"):
        await Db.open(dsn, application_name="test", session={"work_mem": "much"})
    with pytest.raises(ConfigError, match="mysql"):
        await Db.open("mysql://h/d", application_name="test")


async def test_a_server_that_is_not_there_is_unreachable(unused_port: int) -> None:
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        await Db.open(f"postgresql://u:hunter2@127.0.0.1:{unused_port}/d", application_name="test")
    assert "hunter2" not in str(caught.value)
    assert "u:***@127.0.0.1" in str(caught.value)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
