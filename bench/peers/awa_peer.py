"""Awa: prints one JSON line of figures. Arguments: a DSN of an empty database, and the number of jobs.

A core in Rust that calls the handler on the event loop of Python. Queue storage, 1,024 jobs at once, analyzed before
as in its own benchmark of jobs that do nothing; in bulk by its COPY. No deadline for a job was slower, two or four
partitions were not faster, and shards do not help a single insert: it holds a lock of NOTIFY, too, until it commits.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from time import perf_counter

import uvloop
from awa import AsyncClient

BATCH = 1000
_STORED = "select count(*) as jobs from awa.ready_entries where queue = 'single'"
# An end is a row, or one of a batch, until its part of the ring is used anew and only its number is kept. The view over
# them took half a minute for 10,000.
_ENDED = """
    select sum(ended)::bigint as jobs from (
        select sum(completed_count) from awa.receipt_completion_batches where queue = 'noop'
        union all select count(*) from awa.done_entries where queue = 'noop' and state = 'completed'
        union all select sum(pruned_completed_count) from awa.queue_terminal_rollups where queue = 'noop'
    ) as places (ended)
"""


@dataclass
class Noop:
    """The argument of a job; its name is that of its kind."""

    n: int


async def main(dsn: str, jobs: int) -> None:
    """Install, enqueue, drain."""
    # its driver takes no URL without a host, although the one that counts is in the query
    async with AsyncClient(dsn.replace("@/", "@localhost/", 1), max_connections=20) as client:
        await client.migrate()
        await client.install_queue_storage()
        one_at_a_time = min(jobs // 10, 1000) // 50 * 50
        single_s = await _one_by_one(client, one_at_a_time)
        assert await _jobs(client, _STORED) == one_at_a_time
        began = perf_counter()
        for start in range(0, jobs, BATCH):
            many = [Noop(n) for n in range(start, min(start + BATCH, jobs))]
            await client.enqueue_many_copy(many, queue="noop")
        bulk_s = perf_counter() - began
        async with await client.transaction() as ours:
            await ours.execute("analyze")
        seen: list[int] = []

        @client.task(Noop, queue="noop")
        async def noop(job) -> None:
            seen.append(job.args.n)

        began = perf_counter()
        await client.start([("noop", 1024)])
        while len(seen) < jobs:
            await asyncio.sleep(0.005)
        while await _jobs(client, _ENDED) < jobs:
            await asyncio.sleep(0.005)
        drain_s = perf_counter() - began
        await client.shutdown()
    assert len(seen) == len(set(seen)) == jobs, f"{jobs} in, {len(seen)} runs of {len(set(seen))}"
    print(json.dumps({"single": one_at_a_time / single_s, "bulk": jobs / bulk_s, "drain": jobs / drain_s}))


async def _one_by_one(client: AsyncClient, jobs: int) -> float:
    async def call(first: int) -> None:
        for n in range(first, jobs, 50):
            await client.insert(Noop(n), queue="single")

    began = perf_counter()
    await asyncio.gather(*(call(first) for first in range(50)))
    return perf_counter() - began


async def _jobs(client: AsyncClient, sql: str) -> int:
    async with await client.transaction() as looks:
        return (await looks.fetch_one(sql))["jobs"]


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
