"""A process of its own beside the workflow bench: `python -m bench.flow_member work|linger DSN`.

`work` works the workflows of the bench until no run lives. `linger` does so with a short lease, and is to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import uvloop

from bench.flows import FLOWS
from chimpbase import App, Ctx, Wf, step, workflow
from chimpbase.cli.serving import spare_collections


@step
async def briefly(ctx: Ctx, number: int, place: int) -> int:
    """Takes a twentieth of a second, so that a kill always meets many of them."""
    await asyncio.sleep(0.05)
    return number


@workflow("bench.linger", concurrency=200)
async def linger(wf: Wf, number: int) -> int:
    """Three steps that take their time."""
    for place in (1, 2, 3):
        await briefly(wf, number, place)
    return number


async def main() -> None:
    """Work until nothing lives."""
    with TemporaryDirectory(prefix="chimpbase-bench-member-") as directory:
        app = App("bench", register=[*FLOWS, linger])
        pace: dict[str, Any] = {"lease": timedelta(seconds=5)} if sys.argv[1] == "linger" else {}
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        connection = await asyncpg.connect(sys.argv[2])
        async with app.running(database_url=sys.argv[2], project=Path(directory), log_level="error", **pace):
            print("working", flush=True)
            while await connection.fetchval("select exists (select from chimpbase.run where finished_at is null)"):
                await asyncio.sleep(0.02)
        await connection.close()
        print("done", flush=True)


if __name__ == "__main__":
    spare_collections()
    uvloop.run(main())
