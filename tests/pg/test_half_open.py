"""What happens when the network lies: frozen peers, resets, a lost answer to COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic

import anyio
import pytest

from chimpbase._core.errors import DatabaseError, OutcomeUnknown, StatementTimeout, Unreachable
from chimpbase._pg.db import Db
from tests.pg.proxy import Proxy, proxy_before
from tests.waiting import until

pytestmark = pytest.mark.anyio

BUDGET = timedelta(milliseconds=300)
SECOND = timedelta(seconds=1)

# A commit that takes 0.1 s, because a deferred trigger sleeps in it.
SLOW_COMMIT = """
    create table t (a int);
    create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.1); return null; end';
    create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow();
"""


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    async with proxy_before(dsn) as proxy:
        yield proxy


@pytest.fixture
async def db(proxy: Proxy) -> AsyncIterator[Db]:
    db = await Db.open(
        proxy.dsn,
        application_name="test",
        size=4,
        budget=BUDGET,
        connect_timeout=BUDGET,
        checkout_timeout=SECOND,
    )
    yield db
    await db.close(grace=timedelta(0))


@pytest.fixture
async def direct(dsn: str) -> AsyncIterator[Db]:
    direct = await Db.open(dsn, application_name="direct", size=2)
    yield direct
    await direct.close(grace=SECOND)


class Stopwatch:
    def __init__(self) -> None:
        self.began = monotonic()

    @property
    def s(self) -> float:
        return monotonic() - self.began


async def test_a_statement_on_a_frozen_connection_fails_within_its_budget(db: Db, proxy: Proxy) -> None:
    async with db.acquire() as connection:
        await connection.fetch("select 1")
        proxy.freeze()
        watch = Stopwatch()
        with pytest.raises(StatementTimeout, match="outlived its budget of 0.3 s") as caught:
            await connection.fetch("select 1")
        assert 0.25 < watch.s < 0.6
        assert caught.value.transient
        assert connection.is_closed


async def test_a_frozen_statement_that_may_have_written_has_an_unknown_outcome(db: Db, proxy: Proxy) -> None:
    await db.execute("create table t (a int)")
    proxy.freeze()
    with pytest.raises(OutcomeUnknown, match="insert into t"):
        await db.execute("insert into t values (1)")


async def test_the_pool_heals_when_the_network_does(db: Db, proxy: Proxy) -> None:
    await asyncio.gather(*(db.fetch("select pg_sleep(0.02)") for _ in range(4)))
    proxy.freeze()
    with pytest.raises(DatabaseError):
        await db.fetch("select 1")
    proxy.thaw()
    watch = Stopwatch()
    assert await db.fetch_value("select 42") == 42
    # The three other frozen connections were there too: one was asked, and its silence condemned the rest.
    assert watch.s < BUDGET.total_seconds() + 0.5
    assert await asyncio.gather(*(db.fetch_value("select 7") for _ in range(8))) == [7] * 8


async def test_connecting_into_a_black_hole_ends_within_its_budget(db: Db, proxy: Proxy) -> None:
    async with db.acquire():
        proxy.freeze()
        watch = Stopwatch()
        with pytest.raises(Unreachable, match="did not answer in time"):
            await db.checkout()
        assert watch.s < 1.5


async def test_who_waits_for_a_slot_of_a_dead_server_hears_of_the_server(db: Db, proxy: Proxy) -> None:
    held = await db.checkout()
    proxy.freeze()
    answers = await asyncio.gather(*(db.checkout() for _ in range(24)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {Unreachable}
    assert all("did not answer in time" in str(answer) for answer in answers)
    await db.give_back(held)


async def test_a_first_connection_into_a_black_hole_ends_within_its_budget(proxy: Proxy) -> None:
    proxy.freeze()
    watch = Stopwatch()
    with pytest.raises(Unreachable, match="did not answer in time"):
        await Db.open(proxy.dsn, application_name="test", connect_timeout=BUDGET)
    assert watch.s < 1


async def test_close_returns_when_peers_are_frozen(db: Db, proxy: Proxy) -> None:
    busy = await db.checkout()
    await asyncio.gather(*(db.fetch("select pg_sleep(0.02)") for _ in range(3)))
    proxy.freeze()
    watch = Stopwatch()
    await db.close(grace=timedelta(milliseconds=200))
    assert watch.s < 1.2
    assert busy.is_closed


async def test_close_ends_a_statement_that_outlives_the_grace(db: Db) -> None:
    async def work() -> None:
        async with db.acquire() as connection:
            with connection.budget(timedelta(seconds=30)):
                await connection.fetch("select pg_sleep(30)")

    task = asyncio.create_task(work())
    await until(lambda: db._pool.busy == 1)
    watch = Stopwatch()
    await db.close(grace=timedelta(milliseconds=100))
    assert watch.s < 1.1
    with pytest.raises(DatabaseError):
        await task
    with pytest.raises(Unreachable, match="stopping"):
        await db.fetch("select 1")


async def test_cancelling_a_frozen_statement_returns_at_once_and_costs_the_connection(db: Db, proxy: Proxy) -> None:
    connection = await db.checkout()
    await connection.fetch("select 1")
    proxy.freeze()
    task = asyncio.create_task(connection.fetch("select 1"))
    await asyncio.sleep(0)
    watch = Stopwatch()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.is_closed
    await db.give_back(connection)
    assert watch.s < 0.2
    proxy.thaw()
    assert await db.fetch_value("select 1") == 1


async def test_a_timeout_around_a_frozen_transaction_is_kept(db: Db, proxy: Proxy) -> None:
    watch = Stopwatch()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), db.transaction() as connection:
            proxy.freeze()
            await connection.fetch("select 1")
    assert watch.s < 0.25


async def test_copying_into_a_frozen_connection_ends_within_its_budget(db: Db, proxy: Proxy) -> None:
    async with db.acquire() as connection:
        await connection.execute("create table t (a text)")
        records = (("x" * 10_000,) for _ in range(20_000))
        proxy.freeze()
        watch = Stopwatch()
        with pytest.raises(OutcomeUnknown):
            await connection.copy_in("t", records, columns=["a"])
        assert watch.s < 2


async def test_a_reset_before_commit_reached_the_server_is_an_unknown_outcome(db: Db, direct: Db, proxy: Proxy) -> None:
    await direct.execute("create table t (a int)")
    connection = await db.begin()
    await connection.execute("insert into t values (1)")
    proxy.cut_at(b"commit\0", server="before")
    with pytest.raises(OutcomeUnknown, match="committed or not"):
        await connection.commit()
    await db.give_back(connection)
    assert await direct.fetch_value("select count(*) from t") == 0


async def test_a_reset_after_the_server_committed_is_an_unknown_outcome(db: Db, direct: Db, proxy: Proxy) -> None:
    await direct.execute("create table t (a int)")
    proxy.cut_at(b"commit\0", server="after")
    with pytest.raises(OutcomeUnknown):
        async with db.transaction() as connection:
            await connection.execute("insert into t values (1)")
    assert await direct.fetch_value("select count(*) from t") == 1


async def test_a_commit_that_outlives_its_budget_is_an_unknown_outcome(db: Db, direct: Db, proxy: Proxy) -> None:
    await direct.execute("create table t (a int)")
    connection = await db.begin()
    await connection.execute("insert into t values (1)")
    proxy.freeze()
    with pytest.raises(OutcomeUnknown):
        await connection.commit()
    await db.give_back(connection)


async def test_a_commit_run_as_raw_sql_has_an_unknown_outcome_too(db: Db, proxy: Proxy) -> None:
    connection = await db.begin()
    proxy.cut_at(b"COMMIT", server="before")
    with pytest.raises(OutcomeUnknown):
        await connection.execute("/* mine */ COMMIT")
    await db.give_back(connection)


async def test_a_statement_lost_inside_a_transaction_is_a_definite_failure(db: Db, proxy: Proxy) -> None:
    await db.execute("create table t (a int)")
    async with db.acquire() as connection:
        await connection.begin()
        proxy.cut_at(b"insert into t", server="after")
        with pytest.raises(Unreachable) as caught:
            await connection.execute("insert into t values (1)")
        assert caught.value.transient
        assert not connection.in_transaction


async def test_a_begin_on_connections_cut_in_the_pool_is_not_noticed(db: Db, proxy: Proxy) -> None:
    await db.execute("create table t (a int)")
    await asyncio.gather(*(db.fetch("select pg_sleep(0.02)") for _ in range(4)))
    proxy.cut()
    # No turn of the loop in between: the program cannot know yet that its connections are gone.
    async with db.transaction() as connection:
        assert await connection.fetch_value("select 1") == 1
    proxy.cut()

    async def fail() -> None:
        async with db.transaction() as connection:
            await connection.execute("insert into t values (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await db.fetch_value("select count(*) from t") == 0


async def test_a_write_on_a_connection_the_server_took_leave_of_is_sent_on_another(
    db: Db, direct: Db, proxy: Proxy
) -> None:
    await db.execute("create table t (a int)")
    proxy.say_farewell()
    for _ in range(3):  # turns of the loop in which the farewell is read
        await direct.fetch("select 1")
    assert await db.execute("insert into t values (1)") == "INSERT 0 1"
    assert await direct.fetch_value("select count(*) from t") == 1
    proxy.say_farewell()
    for _ in range(3):
        await direct.fetch("select 1")
    async with db.transaction() as connection:
        await connection.execute("insert into t values (2)")
    assert await direct.fetch_value("select count(*) from t") == 2


async def test_cancelling_a_commit_waits_for_its_end(db: Db, direct: Db, proxy: Proxy) -> None:
    async with direct.acquire() as outside:
        await outside.execute_script(SLOW_COMMIT)
    connection = await db.begin()
    await connection.execute("insert into t values (1)")
    task = asyncio.create_task(connection.commit())
    await until(lambda: direct.fetch_value("select count(*) = 1 from pg_stat_activity where query = 'commit'"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.is_closed
    assert await direct.fetch_value("select count(*) from t") == 1
    await db.give_back(connection)


async def test_a_backend_ended_during_commit_leaves_the_outcome_unknown(db: Db, direct: Db) -> None:
    async with direct.acquire() as outside:
        await outside.execute_script(SLOW_COMMIT.replace("0.1", "5"))
    connection = await db.begin()
    with connection.budget(timedelta(seconds=10)):
        await connection.execute("insert into t values (1)")
        task = asyncio.create_task(connection.commit())
        pid = await until(lambda: direct.fetch_value("select pid from pg_stat_activity where wait_event = 'PgSleep'"))
        await direct.fetch("select pg_terminate_backend($1)", pid)
        # The server says so in these words whether it got the signal before or after it made the commit durable.
        with pytest.raises(OutcomeUnknown):
            await task
    await db.give_back(connection)


async def test_cancelling_a_frozen_commit_ends_within_its_budget(db: Db, proxy: Proxy) -> None:
    connection = await db.begin()
    await connection.execute("create table t (a int)")
    proxy.freeze()
    task = asyncio.create_task(connection.commit())
    await asyncio.sleep(0)
    watch = Stopwatch()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert watch.s < 1
    assert isinstance(caught.value.__cause__, OutcomeUnknown)
    await db.give_back(connection)


async def test_an_answer_that_came_while_the_loop_was_blocked_is_read(direct: Db) -> None:
    async with direct.acquire() as connection:
        assert await connection.fetch_value("select 5") == 5
        with connection.budget(timedelta(milliseconds=50)):
            task = asyncio.create_task(connection.fetch_value("select 5"))
            await asyncio.sleep(0)
            blocked_until = monotonic() + 0.2
            while monotonic() < blocked_until:
                pass
            assert await task == 5


async def test_a_lost_connection_does_not_keep_the_program_from_reconnecting(db: Db, proxy: Proxy) -> None:
    proxy.close_door()
    proxy.cut()

    async def refused() -> bool:
        try:
            await db.fetch("select 1")
        except Unreachable:
            return True
        return False

    await until(refused)
    proxy.open_door()
    assert await db.fetch_value("select 1") == 1


async def test_a_cancel_scope_around_a_frozen_statement_ends_in_time(db: Db, proxy: Proxy) -> None:
    watch = Stopwatch()
    with anyio.move_on_after(0.1) as scope:
        async with db.transaction() as connection:
            proxy.freeze()
            await connection.fetch("select 1")
    assert scope.cancelled_caught
    assert watch.s < 0.3


async def test_a_cancel_scope_around_a_frozen_commit_ends_within_the_budget(db: Db, proxy: Proxy) -> None:
    watch = Stopwatch()
    with anyio.move_on_after(0.1) as scope:
        async with db.transaction() as connection:
            await connection.execute("create table t (a int)")
            proxy.freeze()
    assert scope.cancelled_caught
    assert 0.25 < watch.s < 1
