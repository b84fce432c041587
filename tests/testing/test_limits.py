"""Limits in a rehearsal: what may not start waits for the clock that the test moves, or for what runs before it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from chimpbase import App, Ctx, Limits, Queue, Rate
from chimpbase.testing import rehearse

pytestmark = pytest.mark.anyio

mails = Queue("mail", int)


async def test_a_rate_is_kept_by_the_clock_that_the_test_moves(dsn: str) -> None:
    app, sent = App("paced"), list[int]()

    @app.worker(mails, limits=Limits(rate=Rate(1, per=60, burst=2), key_rate=Rate(1, per=600, burst=4)))
    async def send(ctx: Ctx, number: int) -> None:
        sent.append(number)

    async with rehearse(app, database_url=dsn) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue_many(mails, range(6), key="acme")
        assert (await t.drain()).completed == 2
        assert await t.enqueued(mails) == [2, 3, 4, 5]
        assert (await t.advance(timedelta(seconds=30))).completed == 0
        assert (await t.advance(timedelta(seconds=31))).completed == 1
        assert (await t.advance(timedelta(seconds=60))).completed == 1
        assert (await t.advance(timedelta(seconds=120))).completed == 0
        assert (await t.advance(timedelta(minutes=20))).completed == 2
    assert sent == [0, 1, 2, 3, 4, 5]


async def test_jobs_of_a_queue_with_limits_run_in_order(dsn: str) -> None:
    app, sent = App("ordered"), list[int]()

    @app.worker(mails, limits=Limits(ordered=True, concurrency=1))
    async def send(ctx: Ctx, number: int) -> None:
        sent.append(number)
        if len(sent) == 1:
            raise RuntimeError

    async with rehearse(app, database_url=dsn) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue_many(mails, range(3), key="acme")
        drained = await t.drain()
        assert (drained.completed, drained.retried) == (0, 1)
        assert (await t.advance(timedelta(minutes=1))).completed == 3
    assert sent == [0, 0, 1, 2]
