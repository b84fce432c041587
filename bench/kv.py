"""Keys outside of transactions: gets and sets a second by the number of callers, beside one round trip for each.

    .venv/bin/python -m bench.kv [--seconds 3]

Starts a PostgreSQL of its own (fsync on). Every set is counted and read back: a lost one fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from time import perf_counter

import asyncpg
import uvloop

from chimpbase import KV, App
from chimpbase._pg.embedded import EmbeddedServer

SERVER = {"shared_buffers": "1GB", "max_wal_size": "4GB", "max_connections": "100"}
KEYS = 10_000
durable, cached = KV("bench", int), KV("bench.cache", int, cache=True)


async def measure(callers: int, seconds: float, work: object) -> float:
    """How often a second `work(number)` was done by so many callers at once."""
    done, stop = 0, perf_counter() + seconds

    async def call(mine: int) -> None:
        nonlocal done
        number = mine
        while perf_counter() < stop:
            await work(number)  # type: ignore[operator]
            number += callers
            done += 1

    began = perf_counter()
    await asyncio.gather(*(call(mine) for mine in range(callers)))
    return done / (perf_counter() - began)


async def main() -> None:
    """Run every workload and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    app = App("bench", register=[durable, cached])
    with tempfile.TemporaryDirectory(prefix="chimpbase-bench-") as directory:
        server = await EmbeddedServer.start(Path(directory) / "pg", settings=SERVER)
        async with server, app.running(database_url=server.dsn, workers=False):
            await rounds(app, server.dsn, options.seconds)


async def rounds(app: App, dsn: str, seconds: float) -> None:
    """Every number of callers, each against a pool of sixteen connections with a statement for each call."""
    for token in (durable, cached):
        kv = app.ctx.kv(token)
        last = dict[str, int]()

        async def put(number: int, kv=kv, last=last) -> None:
            key = f"key{number % KEYS}"
            last[key] = number
            await kv.set(key, number)

        for callers in (1, 64, 256):
            rate = await measure(callers, seconds, put)
            print(f"set {token.name:12} {callers:4} callers {rate:10,.0f}/s", flush=True)
            stored = await kv.get_many(last)
            assert stored == last, "a set was lost"
        for callers in (1, 64, 256):
            rate = await measure(callers, seconds, lambda number, kv=kv: kv.get(f"key{number % KEYS}"))
            print(f"get {token.name:12} {callers:4} callers {rate:10,.0f}/s", flush=True)
    async with asyncpg.create_pool(dsn, min_size=16, max_size=16) as pool:
        one = "select value from chimpbase.kv where cached = false and namespace = 'bench' and key = $1"
        rate = await measure(64, seconds, lambda number: pool.fetchval(one, f"key{number % KEYS}"))
        print(f"get one by one, pool of 16, 64 callers {rate:10,.0f}/s")


if __name__ == "__main__":
    uvloop.run(main())
