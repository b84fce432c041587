"""Redis as a key-value store through redis-py: prints one JSON line of figures. Arguments: a URL, seconds, callers.

A pool of so many connections that no caller waits, and the parser in C (hiredis); a get or set is one command, as in
`ctx.kv`. Every set is read back.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter

import uvloop
from redis.asyncio import Redis

KEYS = 10_000


async def main(url: str, seconds: float, numbers_of_callers: list[int]) -> None:
    """Sets, then gets, for each number of callers."""
    client = Redis.from_url(url, max_connections=max(numbers_of_callers))
    figures: dict[str, float] = {}
    last: dict[str, bytes] = {}

    async def put(number: int) -> None:
        key, value = f"key{number % KEYS:05}", b"%d" % number
        last[key] = value
        await client.set(key, value)

    async def look(number: int) -> None:
        await client.get(f"key{number % KEYS:05}")

    for callers in numbers_of_callers:
        figures[f"set {callers}"] = await rate(put, callers, seconds)
    keys = list(last)
    assert [last[key] for key in keys] == await client.mget(keys), "a set was lost"
    for callers in numbers_of_callers:
        figures[f"get {callers}"] = await rate(look, callers, seconds)
    await client.aclose()
    print(json.dumps(figures))


async def rate(work, callers: int, seconds: float) -> float:
    """Calls per second."""
    done, stop = 0, perf_counter() + seconds

    async def call(number: int) -> None:
        nonlocal done
        while perf_counter() < stop:
            await work(number)
            number += callers
            done += 1

    began = perf_counter()
    await asyncio.gather(*(call(first) for first in range(callers)))
    return done / (perf_counter() - began)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), [int(word) for word in sys.argv[3:]]))
