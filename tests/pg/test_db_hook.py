"""The hook around every statement, and what is sent at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from chimpbase._core.errors import (
    DatabaseError,
    OutcomeUnknown,
)
from chimpbase._pg.db import Db

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="shop lanes", size=3)
    yield db
    await db.close(grace=SECOND)


class Recorder:
    """Notes what is sent; fails where told. `lose` and `crash` are (statement, point)."""

    def __init__(self, sent: list[str], *, lose: tuple[str, str] = ("", ""), crash: str = "") -> None:
        self.sent, self.lose, self.crash = sent, lose, crash
        self.errors: list[BaseException | None] = []

    def before(self, sql: str, args: Sequence[object]) -> None:
        self.sent.append(sql)
        if sql == self.crash:
            raise ZeroDivisionError
        if self.lose == (sql, "before"):
            raise ConnectionResetError

    async def after(self, sql: str, error: BaseException | None) -> None:
        self.errors.append(error)
        if self.lose == (sql, "after"):
            raise ConnectionResetError


async def test_a_setting_local_to_its_transaction_costs_no_reset(dsn: str) -> None:
    sent: list[str] = []
    db = await Db.open(dsn, application_name="test", size=1, hook=Recorder(sent))
    async with db.transaction() as connection:
        await connection.execute("set local timezone to 'Asia/Tokyo'")
    assert sent == ["begin", "set local timezone to 'Asia/Tokyo'", "commit"]
    await db.close(grace=SECOND)


async def test_an_unshifted_clock_costs_no_statement(dsn: str) -> None:
    sent: list[str] = []
    db = await Db.open(dsn, application_name="test", hook=Recorder(sent))
    async with db.transaction() as connection:
        await connection.fetch("select 1")
    await db.fetch("select 2")
    assert sent == ["begin", "select 1", "commit", "select 2"]
    await db.close(grace=SECOND)


async def test_a_hook_stands_around_every_statement(dsn: str) -> None:
    hook = Recorder([])
    db = await Db.open(dsn, application_name="test", hook=hook)
    with pytest.raises(DatabaseError):
        async with db.transaction() as connection:
            await connection.savepoint("a")
            await connection.fetch("select wrong")
    assert hook.sent == ["begin", "savepoint a", "select wrong", "rollback"]
    assert [type(error).__name__ for error in hook.errors] == [
        *("NoneType", "NoneType", "UndefinedColumnError", "NoneType"),
    ]
    await db.close(grace=SECOND)


@pytest.mark.parametrize(("point", "kept"), [("before", 0), ("after", 1)])
async def test_a_hook_that_loses_the_commit_makes_its_outcome_unknown(dsn: str, db: Db, point: str, kept: int) -> None:
    await db.execute("create table t (a int)")
    faulty = await Db.open(dsn, application_name="test", hook=Recorder([], lose=("commit", point)))
    with pytest.raises(OutcomeUnknown):
        async with faulty.transaction() as connection:
            await connection.execute("insert into t values (1)")
    assert await db.fetch_value("select count(*) from t") == kept
    await faulty.close(grace=SECOND)


async def test_another_error_of_a_hook_comes_out_as_it_is(dsn: str) -> None:
    db = await Db.open(dsn, application_name="test", hook=Recorder([], crash="select 1"))
    async with db.acquire() as connection:
        with pytest.raises(ZeroDivisionError):
            await connection.fetch("select 1")
        assert await connection.fetch_value("select 2") == 2
    await db.close(grace=SECOND)
