"""Limits in one process: what may run at once, how often, in which order, and what happens when they change."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

from chimpbase import App, Ctx, Limits, Queue
from tests.running import Start, is_idle
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)


class Watch:
    """Counts what runs, by key too, and remembers the most there ever were."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[int] = []

    def enter(self, key: str | None, number: int) -> None:
        self.order.append(number)
        for name in ("all", key or "-"):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])

    def leave(self, key: str | None) -> None:
        for name in ("all", key or "-"):
            self.now[name] -= 1


def watched(limits: Limits | None, *, pause_s: float = 0.01, slots: int = 50) -> tuple[App, Watch]:
    app, watch = App("limited"), Watch()

    @app.worker(jobs, limits=limits, concurrency=slots)
    async def work(ctx: Ctx, number: int) -> None:
        assert ctx.job is not None
        key = ctx.job.key
        watch.enter(key, number)
        await a_while(pause_s)
        watch.leave(key)

    return app, watch


async def a_while(seconds: float) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


async def test_concurrency_holds_for_the_queue_and_for_each_key(start: Start, outside: asyncpg.Connection) -> None:
    app, watch = watched(Limits(concurrency=5, key_concurrency=2))
    async with start(app) as runtime:
        for key in ("a", "b", "c", None):
            await app.ctx.queue.enqueue_many(jobs, range(20), key=key)
        await until(lambda: is_idle(outside))
        assert runtime is not None
    assert watch.most["all"] == 5
    assert [watch.most[key] for key in "abc"] == [2, 2, 2]
    assert len(watch.order) == 80


async def test_without_limits_there_is_no_gate(start: Start, outside: asyncpg.Connection) -> None:
    app, watch = watched(None)
    async with start(app):
        await app.ctx.queue.enqueue_many(jobs, range(20), key="a")
        await until(lambda: is_idle(outside))
    assert await outside.fetchval("select count(*) from chimpbase.gate") == 0
    assert len(watch.order) == 20
