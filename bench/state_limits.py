"""The raw limits of what is not a job: bare statements on the engine's own tables, on one connection or sixteen."""

from __future__ import annotations

from itertools import count
from time import perf_counter

import asyncpg

from bench.limits import PINS
from bench.timed import rate_of

KEYS = 10_000
WRITERS = 16

_SET = """
insert into chimpbase.kv (cached, namespace, key, value)
select false, 'bare', key, value from unnest($1::text[], $2::text[]) as new (key, value)
on conflict (cached, namespace, key) do update set value = excluded.value, version = nextval('chimpbase.kv_version')
"""
_GET = """
select key, value from chimpbase.kv where cached = false and namespace = 'bare' and key = any ($1::text[])
"""
_PUBLISH = """
with event as (insert into chimpbase.event (topic, payload) values ('bare', $2) returning id)
insert into chimpbase.job (id, sort, queue, payload)
select new.id, new.id, new.queue, $2 from event
cross join lateral (select nextval('chimpbase.job_id') as id, queue from unnest($1::int[]) as queue) as new
"""
_APPEND = """
insert into chimpbase.entry (id, xid, appended_at, shelf, stream, epoch, hash, payload)
values (nextval('chimpbase.entry_id'), pg_current_xact_id(), now(), 0, 0, 0, 0, $1)
"""
_READ = "select id, payload from chimpbase.entry where stream = $1 and shelf = 0 and id > $2 order by id limit $3"


async def pairs(dsn: str, *, batch: int, seconds: float) -> tuple[float, float]:
    """Sets and gets per second of one connection that does `batch` of them in a statement."""
    connection = await asyncpg.connect(dsn, server_settings=PINS)
    keys = [f"key{number:05}" for number in range(KEYS)]
    done = 0
    try:
        await connection.execute(_SET, keys, keys)
        rates: list[float] = []
        for statement in (_SET, _GET):
            began, done = perf_counter(), 0
            while perf_counter() - began < seconds:
                start = done % (KEYS - batch)
                some = keys[start : start + batch]
                await connection.fetch(statement, *((some, some) if statement is _SET else (some,)))
                done += batch
            rates.append(done / (perf_counter() - began))
        return rates[0], rates[1]
    finally:
        await connection.execute("delete from chimpbase.kv where namespace = 'bare'")
        await connection.close()


async def publishes(dsn: str, *, queues: list[int], seconds: float) -> float:
    """Events per second from sixteen connections, each with one job for each queue, one commit each."""
    pool = await asyncpg.create_pool(dsn, min_size=WRITERS, max_size=WRITERS, server_settings=PINS)
    try:
        rate, _ = await rate_of(lambda n: pool.execute(_PUBLISH, queues, str(n)), callers=WRITERS, seconds=seconds)
        return rate
    finally:
        await pool.execute("truncate chimpbase.job, chimpbase.event", timeout=300)
        await pool.close()


async def appends(dsn: str, *, seconds: float) -> float:
    """Entries per second from sixteen connections, one commit each."""
    pool = await asyncpg.create_pool(dsn, min_size=WRITERS, max_size=WRITERS)
    try:
        rate, _ = await rate_of(lambda n: pool.execute(_APPEND, str(n)), callers=WRITERS, seconds=seconds)
        return rate
    finally:
        await pool.execute("delete from chimpbase.entry where stream = 0", timeout=300)
        await pool.close()


async def reads(dsn: str, *, stream: int, entries: int, page: int = 1000) -> float:
    """Entries per second of one connection that pages through them by id, the first so many."""
    connection = await asyncpg.connect(dsn, server_settings=PINS)
    last, read = 0, 0
    began = perf_counter()
    try:
        for _ in count():
            rows = await connection.fetch(_READ, stream, last, page)
            if not rows or read >= entries:
                return read / (perf_counter() - began)
            last, read = rows[-1][0], read + len(rows)
    finally:
        await connection.close()
    raise AssertionError("it counts for ever")
