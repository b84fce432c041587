"""How often a second something is done by many callers at once, and how long each call takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter


async def rate_of(
    work: Callable[[int], Awaitable[object]], *, callers: int, seconds: float, took_ms: list[float] | None = None
) -> tuple[float, int]:
    """Calls of `work(number)` per second, and how many there were: caller c has the numbers c, c + callers, ..."""
    done, stop = 0, perf_counter() + seconds

    async def call(number: int) -> None:
        nonlocal done
        while (began := perf_counter()) < stop:
            await work(number)
            if took_ms is not None:
                took_ms.append((perf_counter() - began) * 1000)
            number += callers
            done += 1

    began = perf_counter()
    await asyncio.gather(*(call(first) for first in range(callers)))
    return done / (perf_counter() - began), done


async def best_of(times: int, measure: Callable[[], Awaitable[float]]) -> float:
    """The best: a neighbour of the machine only ever takes away."""
    return max([await measure() for _ in range(times)])
