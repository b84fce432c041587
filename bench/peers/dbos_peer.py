"""DBOS: prints one JSON line: workflows per second with so many in flight. Arguments: a DSN, runs, in flight.

Its fastest durable way: async workflows called in the process that runs them, without a queue, so that nothing is
polled for; a pool of connections as large as helps; no admin server, no LISTEN, no logs.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from time import perf_counter

from dbos import DBOS, DBOSConfig

dsn, runs, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config: DBOSConfig = {
    "name": "bench",
    "system_database_url": dsn,
    "sys_db_pool_size": 20,
    "run_admin_server": False,
    "use_listen_notify": False,
    "log_level": "ERROR",
    "max_executor_threads": 64,
}
DBOS(config=config)
done: list[int] = []


@DBOS.step()
async def one(number: int) -> int:
    """Counts itself."""
    done.append(number)
    return number


@DBOS.step()
async def two(number: int) -> int:
    """Counts itself."""
    done.append(number)
    return number


@DBOS.step()
async def three(number: int) -> int:
    """Counts itself."""
    done.append(number)
    return number


@DBOS.workflow()
async def flow(number: int) -> int:
    """Three steps, one after another."""
    return await three(await two(await one(number)))


async def main() -> None:
    """Run them all, so many at a time."""
    DBOS.launch()
    await flow(-1)
    done.clear()
    took: list[float] = []
    numbers = iter(range(runs))

    async def keep_going() -> None:
        for number in numbers:
            began = perf_counter()
            if await flow(number) != number:
                raise RuntimeError(f"run {number} has another result")
            took.append(perf_counter() - began)

    began = perf_counter()
    await asyncio.gather(*(keep_going() for _ in range(at_once)))
    seconds = perf_counter() - began
    listed = await DBOS.list_workflows_async(status="SUCCESS")
    if len(listed) != runs + 1 or len(done) != 3 * runs:
        raise RuntimeError(f"{runs} runs in: {len(listed) - 1} ended, {len(done)} steps run")
    print(json.dumps({"rate": runs / seconds, "p50": statistics.median(took) * 1e3}))
    DBOS.destroy()


asyncio.run(main())
