"""Queues whose workers write to the ledger, and some that misbehave."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import timedelta

from chimpbase import App, Ctx, Retry

app = App("jobs")


@app.worker("note")
async def note(ctx: Ctx, text: str) -> None:
    await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", str(os.getpid()), text)


@app.worker("held", retry=Retry(max_attempts=5))
async def held(ctx: Ctx, text: str) -> None:
    """Writes, and then holds its transaction open until the test releases the note."""
    await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", str(os.getpid()), text)
    while not await ctx.db.fetch_value("select exists (select from released where note = $1)", text):
        await ctx.db.fetch_value("select pg_sleep(0.1)")


@app.worker("first_time_held")
async def first_time_held(ctx: Ctx, text: str) -> None:
    """The first attempt never ends; the next one does at once."""
    if ctx.job.attempt == 1:
        await asyncio.Event().wait()
    await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", str(os.getpid()), text)


@app.worker("stalled")
async def stalled(ctx: Ctx, text: str) -> None:
    """The first attempt writes in a transaction and waits for the process to be stalled and woken; then it returns."""
    await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", str(os.getpid()), text)
    if ctx.job.attempt == 1:
        waited = asyncio.Event()
        asyncio.get_running_loop().call_later(1, waited.set)
        await waited.wait()


@app.worker("poison")
async def poison(ctx: Ctx, text: str) -> None:
    if text == "poison":
        os._exit(13)
    await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", str(os.getpid()), text)


@app.worker("block")
async def block(ctx: Ctx, seconds: float) -> None:
    """Blocks the event loop, as a handler should not."""
    await ctx.db.execute("insert into ledger (who, note) values ($1, 'blocked')", str(os.getpid()))
    threading.Event().wait(seconds)


@app.worker("endless", retry=Retry(max_attempts=1))
async def endless(ctx: Ctx, text: str) -> None:
    """Never lets go of the event loop."""
    await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", str(os.getpid()), text)
    while text:
        pass


@app.worker("large", retry=Retry(max_attempts=1))
async def large(ctx: Ctx, size: int) -> str:
    """Returns as many characters."""
    await ctx.db.execute("insert into ledger (who, note) values ($1, 'large')", str(os.getpid()))
    return "x" * size


@app.worker("once", transaction=False, retry=Retry(max_attempts=1))
async def once(ctx: Ctx, text: str) -> None:
    """Notes that it has begun, and never ends."""
    await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", str(os.getpid()), text)
    await asyncio.Event().wait()


@app.worker("keyed", transaction=False, retry=Retry(max_attempts=5, first=timedelta(milliseconds=10)))
async def keyed(ctx: Ctx, text: str) -> None:
    """Notes the key of each attempt. The first one never ends, the second fails."""
    await ctx.db.execute(
        "insert into ledger (who, note) values ($1, $2)", str(ctx.job.attempt), f"{text} {ctx.idempotency_key}"
    )
    if ctx.job.attempt == 1:
        await asyncio.Event().wait()
    if ctx.job.attempt == 2:
        raise ValueError("the second attempt fails")
