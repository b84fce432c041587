"""A day of a stream is made while somebody appends to it: the entry finds its place all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from random import Random

import asyncpg
import pytest

from chimpbase._core.errors import DatabaseError
from chimpbase._pg.db import Db
from chimpbase._schema.migrate import migrate
from chimpbase._schema.source import own_source
from chimpbase._store import streams
from tests.waiting import until

pytestmark = pytest.mark.anyio
_APPEND = "select chimpbase.append('log', to_jsonb($1::int))"


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="stream days", size=2)
    await migrate(db, source=own_source(), random=Random())
    yield db
    await db.close(grace=timedelta(seconds=1))


async def _waits(db: Db, wanted: int) -> bool:
    return wanted == await db.fetch_value(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )


async def test_an_append_that_meets_the_making_of_its_day_succeeds(db: Db, dsn: str) -> None:
    stream = await db.fetch_value("select chimpbase.retain_stream('log', interval '9 days', null)")
    today: date = await db.fetch_value("select (chimpbase.clock() at time zone 'UTC')::date")
    early, late = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        await late.execute(_APPEND, 0)  # its plan, and what it knows of the partitions, are from before
        transaction = early.transaction()
        await transaction.start()
        await early.execute(_APPEND, 1)
        async with db.acquire() as connection:
            making = asyncio.ensure_future(streams.create_day(connection, stream=stream, day=today))
            await until(lambda: _waits(db, 1))
            appending = asyncio.ensure_future(late.execute(_APPEND, 2))
            await until(lambda: _waits(db, 2))
            await transaction.commit()
            await making
            await appending
    finally:
        await early.close()
        await late.close()
    days = await db.fetch("select payload, tableoid::regclass::text as place from chimpbase.entry order by id")
    assert [row["payload"] for row in days] == ["0", "1", "2"]
    assert {row["place"] for row in days} == {f"chimpbase.entry_{stream}_{today:%Y%m%d}"}


async def test_who_reads_and_appends_in_one_transaction_is_not_deadlocked_by_it(db: Db, dsn: str) -> None:
    stream = await db.fetch_value("select chimpbase.retain_stream('log', interval '9 days', null)")
    today: date = await db.fetch_value("select (chimpbase.clock() at time zone 'UTC')::date")
    other = await asyncpg.connect(dsn)
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select count(*) from chimpbase.entry")
        async with db.acquire() as connection:
            making = asyncio.ensure_future(streams.create_day(connection, stream=stream, day=today))
            await until(lambda: _waits(db, 1))
            await other.execute(_APPEND, 1)
            await transaction.commit()
            await making
    finally:
        await other.close()
    assert await db.fetch_value("select count(*) from chimpbase.entry") == 1


async def test_a_transaction_that_lasts_is_not_waited_for(db: Db, dsn: str) -> None:
    stream = await db.fetch_value("select chimpbase.retain_stream('log', interval '9 days', null)")
    other = await asyncpg.connect(dsn)
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(_APPEND, 1)
        async with db.acquire() as connection:
            with pytest.raises(DatabaseError, match="lock"):
                await streams.create_day(connection, stream=stream, day=date(2030, 1, 1))
        await transaction.rollback()
    finally:
        await other.close()
