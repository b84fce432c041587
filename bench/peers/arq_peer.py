"""arq: prints one JSON line of figures. Arguments: the URL of an empty Redis, and the number of jobs.

It has no call for many jobs: the bulk is a hundred at a time. No results are kept, a thousand jobs are read at a time,
a hundred run at once, in one process as ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker, func


async def main(url: str, jobs: int) -> None:
    """Enqueue, drain."""
    seen: list[int] = []

    async def noop(ctx, n: int) -> None:
        seen.append(n)

    pool = await create_pool(RedisSettings.from_dsn(url))
    one_at_a_time = min(jobs // 10, 5000) // 50 * 50
    single_s = await _enqueue(pool, callers=50, jobs=one_at_a_time)
    await pool.flushdb()
    bulk_s = await _enqueue(pool, callers=100, jobs=jobs)
    worker = Worker(
        functions=[func(noop, name="noop", keep_result=0)],
        redis_pool=pool,
        burst=True,
        max_jobs=100,
        queue_read_limit=1000,
        poll_delay=0.01,
        handle_signals=False,
    )
    began = perf_counter()
    await worker.async_run()
    drain_s = perf_counter() - began
    assert len(seen) == len(set(seen)) == jobs, f"{jobs} in, {len(seen)} runs of {len(set(seen))}"
    print(json.dumps({"single": one_at_a_time / single_s, "bulk": jobs / bulk_s, "drain": jobs / drain_s}), flush=True)


async def _enqueue(pool: ArqRedis, *, callers: int, jobs: int) -> float:
    async def call(first: int) -> None:
        for n in range(first, jobs, callers):
            await pool.enqueue_job("noop", n)

    began = perf_counter()
    await asyncio.gather(*(call(first) for first in range(callers)))
    return perf_counter() - began


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
