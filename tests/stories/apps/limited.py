"""Queues with limits, whose handlers write down when they ran: the span is committed with the job's completion."""

from __future__ import annotations

from datetime import timedelta

from chimpbase import App, Ctx, Limits, Queue, Rate, Retry

app = App("limited")
capped = Queue("capped", int)
lines = Queue("lines", int)
rated = Queue("rated", int)


async def span(ctx: Ctx, number: int, *, seconds: float) -> None:
    assert ctx.job is not None
    row = await ctx.db.fetch_one("select clock_timestamp() as began")
    assert row is not None
    await ctx.db.execute("select pg_sleep($1)", seconds)
    await ctx.db.execute(
        "insert into span values ($1, $2, $3, $4, clock_timestamp())", ctx.job.queue, ctx.job.key, number, row["began"]
    )


@app.worker(capped, limits=Limits(concurrency=5, key_concurrency=2), concurrency=8)
async def cap(ctx: Ctx, number: int) -> None:
    await span(ctx, number, seconds=0.02)


@app.worker(lines, limits=Limits(ordered=True), concurrency=8, retry=Retry(first=timedelta(milliseconds=20)))
async def line(ctx: Ctx, number: int) -> None:
    assert ctx.job is not None
    if number % 7 == 3 and ctx.job.attempt == 1:
        raise RuntimeError("once")
    await span(ctx, number, seconds=0.005)


@app.worker(rated, limits=Limits(rate=Rate(30, per=1, burst=6)), concurrency=8)
async def rate(ctx: Ctx, number: int) -> None:
    await span(ctx, number, seconds=0.001)
