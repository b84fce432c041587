"""An admission reads what it lets through and little more, whatever waits behind the gate: by index, and never a table.

Its statements are inside functions, where no plan can be asked for, so what they read is counted."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Limits, Rate
from chimpbase._app.runtime import _PINNED
from tests.running import the_value

pytestmark = pytest.mark.anyio

WAIT = """
insert into chimpbase.job_wait (id, enqueued_at, queue, key, payload)
select nextval('chimpbase.job_id'), now(), 1, case when n % 100 = 0 then 'key ' || n % 1000 else 'big' end, '1'
from generate_series(1, $1::int) n
"""
LATER = """
insert into chimpbase.job_later (id, due_at, enqueued_at, queue, key, attempt, payload)
select nextval('chimpbase.job_id'), now() + interval '1 hour', now(), 2, 'big', 1, '1' from generate_series(1, $1::int)
"""
READY = """
insert into chimpbase.job (id, sort, queue, key, payload)
select id, id, 2, 'big', '1' from (select nextval('chimpbase.job_id') as id from generate_series(1, $1::int)) as new
"""
TABLES: dict[str, list[tuple[str, int]]] = {
    "empty": [],
    "small": [(WAIT, 300), (LATER, 20), (READY, 20)],
    "large": [(WAIT, 100_000), (LATER, 20_000), (READY, 20_000)],
    "dead-heavy": [(WAIT, 100_000), (READY, 20_000), ("delete from chimpbase.job_wait where id > $1::int", 500)],
}
LIMITS = {
    "queue": Limits(concurrency=50, rate=Rate(1000, per=1)),
    "keys": Limits(key_concurrency=2, key_rate=Rate(1000, per=1)),
    "order": Limits(ordered=True),
    "turns": Limits(fair=True),
}
READ = """
select relname, seq_tup_read, idx_tup_fetch from pg_stat_xact_user_tables
where schemaname = 'chimpbase' and relname in ('job', 'job_wait', 'job_later', 'job_key', 'key_news')
"""


@pytest.fixture(params=TABLES)
async def connection(request: pytest.FixtureRequest, dsn: str) -> Any:
    async with App("plans").running(database_url=dsn, workers=False):
        pass
    connection = await asyncpg.connect(dsn, server_settings={**_PINNED, "plan_cache_mode": "force_generic_plan"})
    await connection.execute("insert into chimpbase.queue (name) values ('gated'), ('other')")
    await connection.execute(
        "insert into chimpbase.process (app, host, pid, version, lease) values ('a', 'h', 1, '1', '1 hour')"
    )
    for statement, number in TABLES[request.param]:
        await connection.execute(statement, number)
    await connection.execute("analyze chimpbase.job, chimpbase.job_wait, chimpbase.job_later")
    yield connection
    await connection.close()


@pytest.mark.parametrize("limits", LIMITS)
async def test_an_admission_reads_little_more_than_it_lets_through(connection: asyncpg.Connection, limits: str) -> None:
    await connection.execute(
        "insert into chimpbase.gate (queue, declared) values (1, $1)", json.dumps(LIMITS[limits].stored())
    )
    waiting = await the_value(connection, "select count(*) from chimpbase.job_wait")
    # the first one after a change of limits has every key to find; here it is not what is measured
    await admit(connection)
    for _ in range(3):
        async with connection.transaction():
            before = await rows_read(connection)
            passed = await admit(connection)
            read = await rows_read(connection) - before
        assert passed == 10 or waiting < 50 or limits in ("keys", "order")
        assert not [table for table in read if "whole" in table]
        assert read.total() < 300


async def rows_read(connection: asyncpg.Connection) -> Counter[str]:
    """How many rows this connection has read of each table, by index or of the whole of it."""
    read: Counter[str] = Counter()
    for table, whole, by_index in await connection.fetch(READ):
        read[f"whole {table}"], read[table] = whole or 0, by_index or 0
    return read


async def admit(connection: asyncpg.Connection) -> int:
    return await the_value(connection, "select cardinality(jobs) from chimpbase.admit(1, 1, 10, true)")
