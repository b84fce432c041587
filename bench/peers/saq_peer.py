"""SAQ: prints one JSON line of figures. Arguments: the URL of an empty Redis, and the number of jobs.

It has no call for many jobs: the bulk is a hundred at a time. A hundred jobs run at once, in one process as ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter

import uvloop
from saq import Queue, Worker


async def main(url: str, jobs: int) -> None:
    """Enqueue, drain."""
    seen: list[int] = []

    async def noop(ctx, *, n: int) -> None:
        seen.append(n)

    single, bulk = Queue.from_url(url, name="single"), Queue.from_url(url, name="bulk")
    await single.connect()
    await bulk.connect()
    one_at_a_time = min(jobs // 10, 5000) // 50 * 50
    single_s = await _enqueue(single, callers=50, jobs=one_at_a_time)
    bulk_s = await _enqueue(bulk, callers=100, jobs=jobs)
    worker = Worker(bulk, [("noop", noop)], concurrency=100)
    began = perf_counter()
    running = asyncio.create_task(worker.start())
    while len(seen) < jobs or await bulk.count("incomplete"):
        await asyncio.sleep(0.005)
    drain_s = perf_counter() - began
    await worker.stop()
    running.cancel()
    assert len(seen) == len(set(seen)) == jobs, f"{jobs} in, {len(seen)} runs of {len(set(seen))}"
    print(json.dumps({"single": one_at_a_time / single_s, "bulk": jobs / bulk_s, "drain": jobs / drain_s}), flush=True)


async def _enqueue(queue: Queue, *, callers: int, jobs: int) -> float:
    async def call(first: int) -> None:
        for n in range(first, jobs, callers):
            await queue.enqueue("noop", n=n)

    began = perf_counter()
    await asyncio.gather(*(call(first) for first in range(callers)))
    return perf_counter() - began


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
