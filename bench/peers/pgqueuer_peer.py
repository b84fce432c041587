"""PgQueuer: prints one JSON line of figures. Arguments: a DSN of an empty database, and the number of jobs.

Its own benchmark's way: asyncpg, one statement for many jobs, drain mode, a large batch.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from time import perf_counter

import asyncpg
import uvloop
from pgqueuer import Job, PgQueuer, Queries
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.types import QueueExecutionMode

BATCH = 1000


async def main(dsn: str, jobs: int) -> None:
    """Install, enqueue, drain."""
    async with asyncpg.create_pool(dsn, min_size=4, max_size=8) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        one_at_a_time = min(jobs // 10, 2000)
        enqueued_at = perf_counter()
        await asyncio.gather(*(_one_by_one(queries, one_at_a_time // 50) for _ in range(50)))
        single_s = (perf_counter() - enqueued_at) / (one_at_a_time // 50 * 50)
        await pool.execute("truncate pgqueuer, pgqueuer_log")
        began = perf_counter()
        for start in range(0, jobs, BATCH):
            many = range(start, min(start + BATCH, jobs))
            await queries.enqueue(["noop"] * len(many), [str(n).encode() for n in many], [0] * len(many))
        bulk_s = perf_counter() - began
        await pool.execute("vacuum analyze pgqueuer")
        seen: list[bytes | None] = []
        manager = PgQueuer(AsyncpgPoolDriver(pool))

        @manager.entrypoint("noop")
        async def noop(job: Job) -> None:
            seen.append(job.payload)

        began = perf_counter()
        await manager.run(dequeue_timeout=timedelta(seconds=1), batch_size=BATCH, mode=QueueExecutionMode.drain)
        drain_s = perf_counter() - began
    assert len(seen) == len(set(seen)) == jobs, f"{jobs} in, {len(seen)} runs of {len(set(seen))}"
    print(json.dumps({"single": 1 / single_s, "bulk": jobs / bulk_s, "drain": jobs / drain_s}))


async def _one_by_one(queries: Queries, count: int) -> None:
    for n in range(count):
        await queries.enqueue("noop", str(n).encode(), 0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
