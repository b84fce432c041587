"""Absurd: prints one JSON line: workflows per second with so many in flight. Arguments: a DSN, runs, in flight.

Its fastest way here: several async workers, each on a connection of its own, that share the runs in flight, and poll a
hundred times a second. Who waits for a run is told as its last step returns, which is before it is committed, so that
nothing is polled for; that all were committed is counted in the end.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from time import perf_counter

import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext
from absurdctl import BUNDLED_SCHEMA_SQL

dsn, runs, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
WORKERS = min(8, at_once)
done: list[int] = []
ended: dict[int, asyncio.Future[None]] = {}


async def flow(params: dict[str, int], ctx: AsyncTaskContext) -> int:
    """Three steps, one after another."""
    number = params["number"]

    async def counted() -> int:
        done.append(number)
        return number

    for name in ("one", "two", "three"):
        await ctx.step(name, counted)
    ended[number].set_result(None)
    return number


async def main() -> None:
    """Run them all, so many at a time."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(BUNDLED_SCHEMA_SQL)
    workers = [AsyncAbsurd(dsn) for _ in range(WORKERS)]
    clients = [AsyncAbsurd(dsn) for _ in range(WORKERS)]
    await clients[0].create_queue("default")
    for client in clients:
        await client.list_queues()  # connects, once: many that spawn at the same time would each connect
    for worker in workers:
        worker.register_task("flow")(flow)
    share = -(-at_once // WORKERS)
    loops = [
        asyncio.create_task(worker.start_worker(worker_id=f"w{n}", concurrency=share, poll_interval=0.01))
        for n, worker in enumerate(workers)
    ]
    took: list[float] = []
    numbers = iter(range(runs))

    async def keep_going(client: AsyncAbsurd) -> None:
        for number in numbers:
            began = perf_counter()
            ended[number] = asyncio.get_running_loop().create_future()
            await client.spawn("flow", {"number": number}, queue="default")
            await ended[number]
            took.append(perf_counter() - began)

    began = perf_counter()
    await asyncio.gather(*(keep_going(clients[n % WORKERS]) for n in range(at_once)))
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        count = "select count(*) from absurd.t_default where state = 'completed'"
        while (await (await connection.execute(count)).fetchone() or (0,))[0] < runs:
            await asyncio.sleep(0.005)
        seconds = perf_counter() - began
        steps = (await (await connection.execute("select count(*) from absurd.c_default")).fetchone() or (0,))[0]
    if steps != 3 * runs or len(done) != 3 * runs:
        raise RuntimeError(f"{runs} runs in: {steps} steps written, {len(done)} steps run")
    for worker in workers:
        worker.stop_worker()
    await asyncio.gather(*loops)
    for one in (*workers, *clients):
        await one.close()
    print(json.dumps({"rate": runs / seconds, "p50": statistics.median(took) * 1e3}))


asyncio.run(main())
