"""The raw limits of one server: what a bare loop does on the engine's own tables, without the engine.

Every figure of the other benchmarks is shown as a share of one of these, measured in the same run on the same server.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

import asyncpg

from chimpbase._core.values import JobId, ProcessId
from chimpbase._store.jobs import settle

#: As the engine pins its own connections; from the first execution on, so that a short loop has a long one's plan.
PINS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}

_CLAIM = """
with ready as (
  select id from chimpbase.job
  where queue = $1 and (priority, sort) > (0::smallint, $2::bigint) and process is null
  order by priority, sort limit $3 for update skip locked
)
update chimpbase.job set process = $4, attempt = job.attempt + 1, claimed_at = statement_timestamp()
from ready where job.id = ready.id
returning job.id, job.attempt, job.sort, job.payload
"""
_FINISH = """
delete from chimpbase.job using unnest($1::bigint[], $2::int[]) as done (id, attempt)
where job.id = done.id and job.process = $3 and job.attempt = done.attempt returning job.id
"""
_FINISH_AND_KEEP = """
with gone as (
  delete from chimpbase.job using unnest($1::bigint[], $2::int[]) as done (id, attempt)
  where job.id = done.id and job.process = $3 and job.attempt = done.attempt returning job.*
),
kept as (
  insert into chimpbase.job_done
    (id, finished_at, enqueued_at, claimed_at, process, queue, attempt, crashes, outcome, payload, headers, errors)
  select id, statement_timestamp(), enqueued_at, claimed_at, process, queue, attempt, crashes, 'completed', payload,
    headers, errors
  from gone
)
select id from gone
"""
_FILL = """
insert into chimpbase.job (id, sort, queue, payload)
select id, id, $1, id::text from (select nextval('chimpbase.job_id') as id from generate_series(1, $2::int)) as new
"""


async def fill(dsn: str, *, queue: int, jobs: int) -> None:
    """Put ready jobs into a queue, in chunks, and let the planner know."""
    connection = await asyncpg.connect(dsn)
    try:
        for start in range(0, jobs, 50_000):
            await connection.execute(_FILL, queue, min(50_000, jobs - start), timeout=300)
        await connection.execute("vacuum (analyze) chimpbase.job", timeout=300)
    finally:
        await connection.close()


async def bare_loop(dsn: str, *, queue: int, jobs: int, history: bool, batch: int = 1000) -> float:
    """Jobs per second of claim, look, finish; fenced, with the next claim under way while the last one finishes."""
    claimer = await asyncpg.connect(dsn, server_settings=PINS)
    finisher = await asyncpg.connect(dsn, server_settings=PINS)
    finish, done, hint = (_FINISH_AND_KEEP if history else _FINISH), 0, 0
    began = perf_counter()
    try:
        claimed = await claimer.fetch(_CLAIM, queue, hint, batch, 1)
        while claimed:
            hint = max(row[2] for row in claimed)
            ids, attempts = [row[0] for row in claimed], [row[1] for row in claimed]
            finished, claimed = await asyncio.gather(
                finisher.fetch(finish, ids, attempts, 1), claimer.fetch(_CLAIM, queue, hint, batch, 1)
            )
            done += len(finished)
    finally:
        await claimer.close()
        await finisher.close()
    if done != jobs:
        raise RuntimeError(f"the bare loop finished {done} of {jobs} jobs")
    return jobs / (perf_counter() - began)


async def bare_transactions(dsn: str, *, queue: int, jobs: int, lanes: int) -> float:
    """Jobs per second where each has a transaction of its own: begin, update, and its end with the COMMIT as one
    message, on that many lanes: three round trips, as the engine has them.
    """
    claimer = await asyncpg.connect(dsn, server_settings=PINS)
    pool = await asyncpg.create_pool(dsn, min_size=lanes, max_size=lanes, server_settings=PINS)
    left, hint, done = jobs, 0, 0

    async def work(rows: list[asyncpg.Record]) -> None:
        nonlocal done
        async with pool.acquire() as connection:
            while rows:
                row = rows.pop()
                await connection.execute("begin")
                await connection.execute("update bench_account set done = done + 1 where id = $1", row[0] % jobs + 1)
                # it fails when the job was not held
                ends = settle(process=ProcessId(1), job=JobId(row[0]), attempt=row[1])
                await connection.execute(f"{ends}; commit")
                done += 1

    try:
        began = perf_counter()
        while left > 0:
            rows = await claimer.fetch(_CLAIM, queue, hint, 1000, 1)
            hint, left = max(row[2] for row in rows), left - len(rows)
            await asyncio.gather(*(work(rows) for _ in range(lanes)))
        seconds = perf_counter() - began
    finally:
        await claimer.close()
        await pool.close()
    if done != jobs:
        raise RuntimeError(f"the bare transactions finished {done} of {jobs} jobs")
    return jobs / seconds


async def insert_rows(dsn: str, *, queue: int, rows: int, batch: int = 1000) -> float:
    """Rows per second through one connection, `unnest` of 1,000 to a commit."""
    connection = await asyncpg.connect(dsn, server_settings=PINS)
    payloads = [str(n) for n in range(batch)]
    began = perf_counter()
    try:
        for _ in range(rows // batch):
            await connection.fetch(
                "insert into chimpbase.job (id, sort, queue, payload)"
                " select id, id, $1, payload from (select nextval('chimpbase.job_id') as id, payload"
                " from unnest($2::text[]) as payload) as new returning id",
                queue,
                payloads,
            )
        return rows / (perf_counter() - began)
    finally:
        await connection.execute("delete from chimpbase.job where queue = $1", queue, timeout=300)
        await connection.close()


async def commits(dsn: str, *, connections: int, seconds: float) -> float:
    """Commits per second of one-row inserts from that many connections."""
    pool = await asyncpg.create_pool(dsn, min_size=connections, max_size=connections)
    await pool.execute("create unlogged table if not exists bench_commit (n int)")
    await pool.execute("alter table bench_commit set logged")
    count, deadline = 0, perf_counter() + seconds

    async def write() -> None:
        nonlocal count
        async with pool.acquire() as connection:
            while perf_counter() < deadline:
                await connection.execute("insert into bench_commit values (1)")
                count += 1

    try:
        await asyncio.gather(*(write() for _ in range(connections)))
        return count / seconds
    finally:
        await pool.execute("drop table bench_commit")
        await pool.close()
