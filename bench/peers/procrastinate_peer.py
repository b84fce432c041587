"""Procrastinate: prints one JSON line of figures. Arguments: a DSN of an empty database, and the number of jobs.

Concurrency 30 and no deletion: more or less of either was slower here.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter

import uvloop
from procrastinate import App, PsycopgConnector

BATCH = 1000


async def main(dsn: str, jobs: int) -> None:
    """Install, enqueue, drain."""
    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=4, max_size=16))
    seen: list[int] = []

    @app.task(name="noop", queue="noop")
    async def noop(n: int) -> None:
        seen.append(n)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        count = min(jobs // 10, 1000) // 50

        async def one_by_one() -> None:
            for n in range(count):
                await noop.defer_async(n=n)

        began = perf_counter()
        await asyncio.gather(*(one_by_one() for _ in range(50)))
        single_s = (perf_counter() - began) / (count * 50)
        await app.connector.execute_query_async("truncate procrastinate_jobs cascade")
        began = perf_counter()
        for start in range(0, jobs, BATCH):
            await noop.batch_defer_async(*({"n": n} for n in range(start, min(start + BATCH, jobs))))
        bulk_s = perf_counter() - began
        began = perf_counter()
        await app.run_worker_async(queues=["noop"], concurrency=30, wait=False, install_signal_handlers=False)
        drain_s = perf_counter() - began
    assert len(seen) == len(set(seen)) == jobs, f"{jobs} in, {len(seen)} runs of {len(set(seen))}"
    print(json.dumps({"single": 1 / single_s, "bulk": jobs / bulk_s, "drain": jobs / drain_s}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
