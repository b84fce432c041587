"""A process of its own beside the bench: `python -m bench.member hear|drain|tick DSN N`.

`hear` runs N jobs one by one, answers each with a line, and prints how long each took to get here, in milliseconds.
`drain` says when it is ready, waits for a line, says when it is up, works until another line, and prints what it ran.
`tick` runs the jobs of schedules until it is told to end.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import uvloop

from chimpbase import App, Ctx, Queue
from chimpbase.cli.serving import spare_collections


async def hear(dsn: str, count: int, directory: Path) -> None:
    """Run jobs that carry the moment they were enqueued at."""
    app = App("bench")
    figures: list[float] = []
    done = asyncio.Event()

    @app.worker(Queue("bench.heard", float))
    async def heard(ctx: Ctx, sent: float) -> None:
        figures.append((perf_counter() - sent) * 1000)
        print("heard", flush=True)
        if len(figures) == count:
            done.set()

    async with app.running(database_url=dsn, project=directory):
        print("ready", flush=True)
        await done.wait()
        print(*figures, flush=True)


async def drain(dsn: str, directory: Path) -> None:
    """Work until that is enough. Looking whether anything is left is not for eight at once: it reads what is dead."""
    from bench.workloads import noop, seen, write

    app = App("bench", register=[noop, write])
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with app.running(database_url=dsn, project=directory):
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    print(*seen, flush=True)


async def tick(dsn: str, directory: Path) -> None:
    """Fire schedules and run their jobs, until SIGTERM."""
    from bench.state_cron import ticks

    async with App("bench", register=[ticks]).running(database_url=dsn, project=directory):
        end = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
        print("ready", flush=True)
        await end.wait()


async def main() -> None:
    """Do what the command line says."""
    with TemporaryDirectory(prefix="chimpbase-bench-member-") as directory:
        if sys.argv[1] == "hear":
            await hear(sys.argv[2], int(sys.argv[3]), Path(directory))
        elif sys.argv[1] == "drain":
            await drain(sys.argv[2], Path(directory))
        else:
            await tick(sys.argv[2], Path(directory))


if __name__ == "__main__":
    spare_collections()
    uvloop.run(main())
