"""The pool and what comes back to it: limits, leaks, restarts, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from chimpbase._core.errors import (
    DatabaseError,
    OutcomeUnknown,
    SerializationConflict,
    Unreachable,
)
from chimpbase._pg.db import Db
from tests.waiting import until

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="shop lanes", size=3)
    yield db
    await db.close(grace=SECOND)


async def test_a_statement_of_its_own_is_a_transaction(db: Db) -> None:
    await db.execute("create table t (a int)")
    assert await db.execute("insert into t values ($1)", 1) == "INSERT 0 1"
    assert await db.fetch_value("select a from t") == 1
    assert [tuple(row) for row in await db.fetch("select a from t")] == [(1,)]
    row = await db.fetch_one("select a from t")
    assert row is not None
    assert row["a"] == 1


async def test_a_transaction_block_commits_or_rolls_back(db: Db) -> None:
    await db.execute("create table t (a int)")
    async with db.transaction(isolation="serializable") as connection:
        await connection.execute("insert into t values (1)")
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as connection:
            await connection.execute("insert into t values (2)")
            raise ZeroDivisionError
    assert await db.fetch_value("select array_agg(a) from t") == [1]


async def test_never_more_connections_than_the_size(db: Db, housekeeping: Db) -> None:
    answers = await asyncio.gather(*(db.fetch_value("select $1::int from pg_sleep(0.01)", n) for n in range(30)))
    assert answers == list(range(30))
    assert await housekeeping.fetch_value(COUNT) == 3


COUNT = "select count(*) from pg_stat_activity where application_name = 'shop lanes'"


@pytest.fixture
async def housekeeping(dsn: str) -> AsyncIterator[Db]:
    """A look at the server from outside."""
    housekeeping = await Db.open(dsn, application_name="test", size=1)
    yield housekeeping
    await housekeeping.close(grace=SECOND)


async def test_a_caller_who_waits_too_long_is_told_that_all_are_busy(db: Db) -> None:
    held = [await db.checkout() for _ in range(3)]
    with pytest.raises(Unreachable, match="All 3 connections are busy") as caught:
        await db.checkout(timeout=timedelta(milliseconds=50))
    assert caught.value.transient
    waiting = asyncio.create_task(db.checkout())
    cancelled = asyncio.create_task(db.checkout())
    await asyncio.sleep(0)
    cancelled.cancel()
    for connection in held:
        await db.give_back(connection)
    connection = await waiting
    assert await connection.fetch_value("select 1") == 1
    await db.give_back(connection)
    assert cancelled.cancelled() or cancelled.cancelling()


async def test_a_waiter_cancelled_as_it_is_served_loses_no_connection(db: Db) -> None:
    for _ in range(20):
        held = [await db.checkout() for _ in range(3)]
        waiting = asyncio.create_task(db.checkout())
        await asyncio.sleep(0)
        await db.give_back(held.pop())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for connection in held:
            await db.give_back(connection)
    assert db._pool.busy == 0


@pytest.mark.parametrize(
    "leak",
    [
        "begin",
        "begin; select 1 / 0",
        "set timezone to 'Asia/Tokyo'",
        "set statement_timeout to 1; select pg_advisory_lock(1)",
        "listen gossip",
        "create table s (a int); begin; insert into s values (1); commit; begin; savepoint a",
    ],
)
async def test_nothing_leaks_to_the_next_user(dsn: str, leak: str) -> None:
    db = await Db.open(dsn, application_name="test", size=1)
    async with db.acquire() as connection:
        before = connection.backend_pid
        for statement in leak.split("; "):
            try:
                await connection.execute(statement)
            except DatabaseError:
                assert "1 / 0" in statement
    async with db.acquire() as connection:
        assert connection.backend_pid == before
        assert connection.transaction_status() == "idle"
        assert await connection.fetch_value("show timezone") == "UTC"
        assert await connection.fetch_value("show statement_timeout") == "0"
        assert await connection.fetch_value("select count(*) from pg_locks where locktype = 'advisory'") == 0
        assert await connection.fetch("select pg_listening_channels()") == []
    await db.close(grace=SECOND)


async def test_a_connection_given_back_while_a_task_still_uses_it_is_closed(db: Db) -> None:
    connection = await db.checkout()
    task = asyncio.create_task(connection.fetch("select pg_sleep(5)"))
    await asyncio.sleep(0)
    await db.give_back(connection)
    with pytest.raises(Unreachable):
        await task
    assert await db.fetch_value("select 1") == 1


async def test_connections_ended_by_the_server_while_idle_are_replaced(db: Db, housekeeping: Db) -> None:
    await asyncio.gather(*(db.fetch("select pg_sleep(0.02)") for _ in range(3)))
    await housekeeping.fetch(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'shop lanes'"
    )
    await until(lambda: housekeeping.fetch_value(f"select ({COUNT}) = 0"))
    assert await asyncio.gather(*(db.fetch_value("select 1") for _ in range(6))) == [1] * 6


async def test_a_statement_whose_backend_is_ended_says_why(db: Db, housekeeping: Db) -> None:
    task = asyncio.create_task(db.fetch("select pg_sleep(30)"))
    await until(lambda: housekeeping.fetch_value(f"select ({COUNT}) = 1"))
    pid = await until(
        lambda: housekeeping.fetch_value("select pid from pg_stat_activity where query = 'select pg_sleep(30)'")
    )
    await housekeeping.fetch("select pg_terminate_backend($1)", pid)
    with pytest.raises(Unreachable, match="administrator command") as caught:
        await task
    assert caught.value.sqlstate == "57P01"
    assert await db.fetch_value("select 1") == 1


async def test_a_write_whose_backend_is_ended_has_an_unknown_outcome(db: Db, housekeeping: Db) -> None:
    await db.execute("create table t (a int)")
    task = asyncio.create_task(db.execute("insert into t select 1 from pg_sleep(30)"))
    pid = await until(lambda: housekeeping.fetch_value("select pid from pg_stat_activity where wait_event = 'PgSleep'"))
    await housekeeping.fetch("select pg_terminate_backend($1)", pid)
    with pytest.raises(OutcomeUnknown):
        await task


async def test_a_read_only_server_makes_the_pool_reconnect(db: Db, housekeeping: Db) -> None:
    first = await db.fetch_value("select pg_backend_pid()")
    async with db.acquire() as connection:
        await connection.execute("begin read only")
        with pytest.raises(Unreachable, match="read-only") as caught:
            await connection.execute("create table t (a int)")
    assert caught.value.sqlstate == "25006"
    assert await db.fetch_value("select pg_backend_pid()") != first


async def test_a_changed_table_makes_the_pool_forget_its_statements(db: Db, housekeeping: Db) -> None:
    await db.execute("create table t (a int)")
    async with db.acquire() as one, db.acquire() as two:
        await one.fetch("select * from t")
        await two.fetch("select * from t")
        await housekeeping.execute("alter table t alter column a type text")
        await one.begin()
        with pytest.raises(SerializationConflict, match="changed") as caught:
            await one.fetch("select * from t")
    assert caught.value.transient
    async with db.transaction() as connection:
        assert await connection.fetch("select * from t") == []


async def test_an_old_connection_is_replaced(db: Db) -> None:
    async with db.acquire() as connection:
        first = connection.backend_pid
        session = connection._session
        assert session is not None
        session.born -= 31 * 60
    assert await db.fetch_value("select pg_backend_pid()") != first


async def test_closing_twice_is_closing_once(dsn: str) -> None:
    db = await Db.open(dsn, application_name="test")
    await db.close(grace=SECOND)
    await db.close(grace=SECOND)
    with pytest.raises(Unreachable, match="stopping"):
        await db.checkout()


async def test_close_waits_for_work_within_the_grace(dsn: str, db: Db, housekeeping: Db) -> None:
    closing = await Db.open(dsn, application_name="closing")
    task = asyncio.create_task(closing.fetch_value("select 7 from pg_sleep(0.1)"))
    await until(lambda: closing._pool.busy == 1)
    await closing.close(grace=timedelta(seconds=5))
    assert await task == 7
    gone = "select count(*) = 0 from pg_stat_activity where application_name = 'closing'"
    await until(lambda: housekeeping.fetch_value(gone))


async def test_no_task_or_file_is_left_behind(dsn: str) -> None:
    async def open_and_close() -> None:
        db = await Db.open(dsn, application_name="test", size=4)
        await asyncio.gather(*(db.fetch("select pg_sleep(0.01)") for _ in range(8)))
        await db.close(grace=SECOND)

    await open_and_close()  # the event loop opens files of its own at first
    files, tasks = _open_files(), asyncio.all_tasks()
    for _ in range(3):
        await open_and_close()
    assert asyncio.all_tasks() == tasks
    await until(lambda: _open_files() <= files)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
