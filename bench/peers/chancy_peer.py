"""Chancy: prints one JSON line of figures. Arguments: a DSN of an empty database, and the number of jobs.

Jobs run in the event loop of the worker, 1,000 at once, and whatever ends asks for more. Of the plugins only leadership
and recovery are left, without which a crash would lose jobs; a push notifies, without which a job would wait for the
next look. The last ends are written by `Worker.flush` rather than up to a second later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from time import perf_counter

import uvloop
from chancy import Chancy, Job, Queue, Worker
from chancy.plugins.leadership import Leadership
from chancy.plugins.recovery import Recovery
from psycopg import AsyncConnection

seen: list[int] = []


async def noop(*, n: int) -> None:
    """Found by its name in this module."""
    seen.append(n)


async def main(dsn: str, jobs: int) -> None:
    """Install, enqueue, drain."""
    quiet = logging.getLogger("peer")  # its own tells of every job
    quiet.setLevel(logging.WARNING)
    safe = [Leadership(), Recovery()]
    async with (
        Chancy(dsn, plugins=safe, no_default_plugins=True, log=quiet, max_connection_pool_size=16) as chancy,
        await AsyncConnection.connect(dsn, autocommit=True) as looks,
    ):
        await chancy.migrate()
        # declared first: a worker declares a queue of this name that starts processes
        await chancy.declare(
            Queue("default", concurrency=1000, executor=Chancy.Executor.Async, eager_polling=True, polling_interval=1)
        )
        one_at_a_time = min(jobs // 10, 2000) // 50 * 50
        single_s = await _one_by_one(chancy, one_at_a_time)
        assert await _count(looks, "pending") == one_at_a_time
        await looks.execute("truncate chancy_jobs")
        began = perf_counter()
        async for _ in chancy.push_many([_job(n) for n in range(jobs)], batch_size=1000):
            pass
        bulk_s = perf_counter() - began
        await looks.execute("vacuum analyze chancy_jobs")
        drain_s = await _drain(chancy, looks, jobs)
    assert len(seen) == len(set(seen)) == jobs, f"{jobs} in, {len(seen)} runs of {len(set(seen))}"
    print(json.dumps({"single": one_at_a_time / single_s, "bulk": jobs / bulk_s, "drain": jobs / drain_s}))


def _job(n: int) -> Job:
    return Job(func="__main__.noop", kwargs={"n": n})


async def _one_by_one(chancy: Chancy, jobs: int) -> float:
    async def call(first: int) -> None:
        for n in range(first, jobs, 50):
            await chancy.push(_job(n))

    began = perf_counter()
    await asyncio.gather(*(call(first) for first in range(50)))
    return perf_counter() - began


async def _drain(chancy: Chancy, looks: AsyncConnection, jobs: int) -> float:
    worker = Worker(chancy, register_signal_handlers=False)
    began = perf_counter()
    async with worker:
        while len(seen) < jobs:
            await asyncio.sleep(0.005)
        while await _count(looks, "succeeded") < jobs:
            await worker.flush()
        return perf_counter() - began


async def _count(looks: AsyncConnection, state: str) -> int:
    found = await looks.execute("select count(*) from chancy_jobs where state = %s", [state])
    row = await found.fetchone()
    return row[0] if row else 0


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
