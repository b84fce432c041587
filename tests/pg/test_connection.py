"""A checked-out connection: statements, transactions, savepoints, budgets, turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from chimpbase._core.errors import (
    ConstraintViolation,
    QueryError,
    StatementTimeout,
    UniqueViolation,
    Unreachable,
    UsageError,
)
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="test", size=3)
    yield db
    await db.close(grace=timedelta(seconds=1))


@pytest.fixture
async def connection(db: Db) -> AsyncIterator[Connection]:
    async with db.acquire() as connection:
        await connection.execute("create table t (a int primary key)")
        yield connection


async def test_each_verb_gives_its_shape(connection: Connection) -> None:
    assert await connection.execute("insert into t values ($1), (2)", 1) == "INSERT 0 2"
    assert [row["a"] for row in await connection.fetch("select a from t order by a")] == [1, 2]
    row = await connection.fetch_one("select a from t where a = $1", 2)
    assert row is not None
    assert row["a"] == 2
    assert await connection.fetch_one("select a from t where a = 9") is None
    assert await connection.fetch_value("select a from t where a = 9") is None
    assert await connection.fetch_value("select count(*) from t") == 2


async def test_a_script_runs_all_its_statements_or_none(connection: Connection) -> None:
    await connection.execute_script("insert into t values (1); insert into t values (2)")
    with pytest.raises(UniqueViolation):
        await connection.execute_script("insert into t values (3); insert into t values (1)")
    assert await connection.fetch_value("select array_agg(a order by a) from t") == [1, 2]


async def test_copy_in_stores_records(connection: Connection) -> None:
    assert await connection.copy_in("t", [(n,) for n in range(100)], columns=["a"], schema="public") == "COPY 100"
    assert await connection.fetch_value("select sum(a) from t") == 4950
    with pytest.raises(UniqueViolation):
        await connection.copy_in("t", [(1,)], columns=["a"])
    assert await connection.fetch_value("select count(*) from t") == 100


async def test_a_record_that_does_not_fit_stores_nothing(db: Db, connection: Connection) -> None:
    with pytest.raises(QueryError, match="does not fit the columns a of t"):
        await connection.copy_in("t", [(1,), ("word",)], columns=["a"])
    assert connection.is_closed
    assert await db.fetch_value("select count(*) from t") == 0


async def test_a_transaction_commits_or_rolls_back(connection: Connection) -> None:
    await connection.begin(isolation="repeatable read")
    assert connection.in_transaction
    assert await connection.fetch_value("show transaction_isolation") == "repeatable read"
    await connection.execute("insert into t values (1)")
    await connection.commit()
    assert not connection.in_transaction
    await connection.begin()
    await connection.execute("insert into t values (2)")
    await connection.rollback()
    await connection.rollback()
    assert await connection.fetch_value("select count(*) from t") == 1


async def test_a_savepoint_takes_back_what_came_after_it(connection: Connection) -> None:
    await connection.begin()
    await connection.execute("insert into t values (1)")
    await connection.savepoint("inner_1")
    with pytest.raises(UniqueViolation):
        await connection.execute("insert into t values (1)")
    assert connection.transaction_status() == "failed"
    await connection.rollback_to("inner_1")
    assert connection.transaction_status() == "active"
    await connection.execute("insert into t values (2)")
    await connection.release("inner_1")
    await connection.commit()
    assert connection.transaction_status() == "idle"
    assert await connection.fetch_value("select count(*) from t") == 2


async def test_the_status_is_the_servers_whoever_ended_the_transaction(connection: Connection) -> None:
    await connection.begin()
    await connection.execute("insert into t values (1)")
    await connection.execute("COMMIT")
    assert connection.transaction_status() == "idle"
    with pytest.raises(UsageError, match="No transaction is open"):
        await connection.commit()
    await connection.execute("BEGIN")
    assert connection.transaction_status() == "active"
    with pytest.raises(UsageError, match="open on this connection already"):
        await connection.begin()


async def test_a_commit_of_a_failed_transaction_is_an_error(connection: Connection) -> None:
    await connection.begin()
    await connection.execute("insert into t values (1)")
    with pytest.raises(QueryError) as first:
        await connection.execute("select 1 / 0")
    with pytest.raises(QueryError, match="an earlier statement of the transaction failed") as caught:
        await connection.commit()
    assert caught.value.__cause__ is first.value
    assert await connection.fetch_value("select count(*) from t") == 0


async def test_a_statement_after_a_failure_tells_what_to_do(connection: Connection) -> None:
    await connection.begin()
    with pytest.raises(QueryError):
        await connection.execute("select 1 / 0")
    with pytest.raises(QueryError, match="under a savepoint") as caught:
        await connection.execute("select 1")
    assert caught.value.sqlstate == "25P02"


async def test_a_value_the_driver_refuses_leaves_the_transaction_usable(connection: Connection) -> None:
    await connection.begin()
    with pytest.raises(QueryError, match=r"argument \$1"):
        await connection.execute("insert into t values ($1)", "secret word")
    assert connection.transaction_status() == "active"
    await connection.execute("insert into t values ($1)", 1)
    await connection.commit()


async def test_a_deferred_constraint_fails_the_commit_for_certain(connection: Connection) -> None:
    await connection.execute("create table u (a int references t deferrable initially deferred)")
    await connection.begin()
    await connection.execute("insert into u values (1)")
    with pytest.raises(ConstraintViolation) as caught:
        await connection.commit()
    assert caught.value.constraint == "u_a_fkey"
    assert not connection.in_transaction
    assert await connection.fetch_value("select count(*) from u") == 0


async def test_a_budget_ends_a_slow_statement(db: Db, connection: Connection) -> None:
    budget = connection.budget(timedelta(milliseconds=100))
    with budget, pytest.raises(StatementTimeout, match=r"pg_sleep.*outlived its budget of 0.1 s"):
        await connection.fetch("select pg_sleep(30) from t right join (values (1)) as one (b) on true")
    assert connection.is_closed
    assert await db.fetch_value("select 1") == 1


async def test_a_budget_holds_inside_its_block_only(connection: Connection) -> None:
    with connection.budget(timedelta(milliseconds=200)):
        await connection.fetch("select 1")
    await connection.fetch("select pg_sleep(0.3)")


async def test_a_longer_budget_is_kept_too(dsn: str) -> None:
    db = await Db.open(dsn, application_name="test", budget=timedelta(milliseconds=100))
    async with db.acquire() as connection:
        await connection.fetch("select 1")
        with connection.budget(timedelta(seconds=5)):
            await connection.fetch("select pg_sleep(0.3)")
        await connection.fetch("select 1")
    await db.close(grace=timedelta(seconds=1))


async def test_the_server_gives_up_a_statement_whose_client_is_gone(db: Db, connection: Connection) -> None:
    pid = connection.backend_pid
    with connection.budget(timedelta(milliseconds=50)), pytest.raises(StatementTimeout):
        await connection.fetch("select pg_sleep(60) from (values (1)) as one")
    await until(lambda: db.fetch_value("select count(*) = 0 from pg_stat_activity where pid = $1", pid), deadline_s=3)


async def test_statements_of_several_tasks_take_turns(connection: Connection) -> None:
    answers = await asyncio.gather(*(connection.fetch_value("select $1::int", n) for n in range(50)))
    assert answers == list(range(50))


async def test_a_task_cancelled_before_its_turn_disturbs_nobody(connection: Connection) -> None:
    slow = asyncio.create_task(connection.fetch_value("select 1 from pg_sleep(0.1)"))
    waiting = asyncio.create_task(connection.fetch_value("select 2"))
    last = asyncio.create_task(connection.fetch_value("select 3"))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await slow == 1
    assert await last == 3
    assert waiting.cancelled()


async def test_a_connection_given_back_refuses_everything(db: Db) -> None:
    connection = await db.checkout()
    await db.give_back(connection)
    await db.give_back(connection)
    with pytest.raises(UsageError, match="was given back"):
        await connection.fetch("select 1")
    assert connection.is_closed
    assert not connection.in_transaction


@pytest.mark.parametrize("name", ["A", "a b", "a;b", "1", "", 'a"', "a" * 64])
async def test_a_savepoint_has_a_plain_name(connection: Connection, name: str) -> None:
    await connection.begin()
    with pytest.raises(UsageError, match="no name for a savepoint"):
        await connection.savepoint(name)
    assert connection.transaction_status() == "active"


async def test_an_unknown_isolation_level_is_refused(connection: Connection) -> None:
    with pytest.raises(UsageError, match="read committed, repeatable read, serializable"):
        await connection.begin(isolation="serialisable")


async def test_a_transaction_ended_by_the_server_while_idle_is_told_clearly(dsn: str) -> None:
    db = await Db.open(dsn, application_name="test", session={"idle_in_transaction_session_timeout": "50ms"}, size=2)
    connection = await db.begin()
    await until(lambda: connection.is_closed)
    assert connection.transaction_status() == "idle"
    with pytest.raises(Unreachable, match="idle_in_transaction_session_timeout"):
        await connection.commit()
    with pytest.raises(Unreachable, match="not sent"):
        await connection.fetch("select 1")
    await db.give_back(connection)
    assert await db.fetch_value("select 1") == 1
    await db.close(grace=timedelta(seconds=1))
