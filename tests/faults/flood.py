"""The app of the chaos: money moves in transactions, plain jobs note what they did outside, and some fail at first.

Every handler writes into tables without a unique key, so that what happens twice shows.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path

from chimpbase import App, Ctx, Limits, Retry, SyncCtx

ACCOUNTS = 20
MAX_ATTEMPTS = 60
LIMIT = 3
RETRY = Retry(max_attempts=MAX_ATTEMPTS, first=timedelta(milliseconds=50), cap=timedelta(milliseconds=500))
POISONS = (
    "exit",
    "kill",
    "segv",
    "interrupt",
    "recursion",
    "sys.exit",
    "swallow",
    "terminate",
    "commit",
    "aborted",
    "huge",
)

app = App("flood")


@app.worker("transfer", retry=RETRY)
async def transfer(ctx: Ctx, n: int) -> None:
    """Moves one coin. In the order of the accounts, so that two transfers never wait for each other."""
    await ctx.db.execute(
        "insert into effect (n, job, attempt, pid) values ($1, $2, $3, $4)", n, ctx.job.id, ctx.job.attempt, os.getpid()
    )
    for account, amount in sorted([(n % ACCOUNTS, -1), ((n * 7 + 1) % ACCOUNTS, 1)]):
        await ctx.db.execute("update account set balance = balance + $2 where id = $1", account, amount)
    if n % 10 == 3 and ctx.job.attempt == 1:
        raise ValueError("one in ten fails at first")


@app.worker("limited", retry=RETRY, limits=Limits(concurrency=LIMIT))
async def limited(ctx: Ctx, n: int) -> None:
    """As many at once in all processes as the limit says."""
    await ctx.db.execute(
        "insert into effect (n, job, attempt, pid) values ($1, $2, $3, $4)", n, ctx.job.id, ctx.job.attempt, os.getpid()
    )


@app.worker("plain", retry=RETRY, transaction=False)
def plain(ctx: SyncCtx, n: int) -> None:
    """Notes its beginning and its end outside of the database."""
    outside_note(f"begin {n} {ctx.job.id} {ctx.job.attempt}")
    if n % 10 == 3 and ctx.job.attempt == 1:
        raise ValueError("one in ten fails at first")
    outside_note(f"end {n} {ctx.job.id} {ctx.job.attempt}")


@app.worker("blocking", retry=RETRY)
async def blocking(ctx: Ctx, n: int) -> None:
    """Blocks the event loop for two leases, as a handler should not."""
    await ctx.db.execute(
        "insert into effect (n, job, attempt, pid) values ($1, $2, $3, $4)", n, ctx.job.id, ctx.job.attempt, os.getpid()
    )
    threading.Event().wait(2.2)


@app.worker("poison", retry=Retry(max_attempts=2, first=timedelta(milliseconds=10)), timeout=timedelta(seconds=1))
async def poison(ctx: Ctx, kind: str) -> None:
    """Everything that a handler must not do."""
    match kind:
        case "exit":
            os._exit(13)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            ctypes.string_at(0)
        case "interrupt":
            raise KeyboardInterrupt
        case "recursion":
            _recurse(0)
        case "sys.exit":
            sys.exit(3)
        case "swallow":
            await _swallow()
        case "terminate":
            await ctx.db.execute("select pg_terminate_backend(pg_backend_pid())")
        case "commit":
            await ctx.db.execute("do $$ begin commit; end $$")
        case "aborted":
            await _ignore(ctx.db.execute("select 1 / 0"))
        case "huge":
            raise ValueError("x" * 10_000_000)
        case _:
            raise ValueError(kind)


def _recurse(n: int) -> int:
    return _recurse(n + 1) + 1


async def _ignore(work: Awaitable[object]) -> None:
    try:
        await work
    except Exception:
        return


async def _swallow() -> None:
    """Outlives its timeout once, and then ends after all."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("a cancellation was swallowed") from None


@app.worker("hungry", retry=Retry(max_attempts=5, first=timedelta(milliseconds=10)))
async def hungry(ctx: Ctx, megabytes: int) -> None:
    """Takes more memory than there is."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    assert limit != resource.RLIM_INFINITY, "only for a process whose memory is limited"
    bytearray(megabytes << 20)


def outside_note(line: str) -> None:
    """One line, whole, at the end of a file that all processes share."""
    path = Path(os.environ["FLOOD_NOTES"])
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
