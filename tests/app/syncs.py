"""An app whose jobs sync users, for tests of unique jobs: it holds them until it is told to go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue, Retry
from tests.running import Start


@dataclass
class Sync:
    user: int
    note: str = ""


syncs = Queue("syncs", Sync)
STATES: list[Any] = ["waiting", "running", "completed", "cancelled", "dead"]


class Held:
    """An app whose handler tells what it got and ends when it is told to."""

    def __init__(self) -> None:
        self.app = App("unique")
        self.seen: list[Sync] = []
        self.go = asyncio.Event()

        @self.app.worker(syncs, retry=Retry(max_attempts=1))
        async def sync(ctx: Ctx, job: Sync) -> None:
            self.seen.append(job)
            await self.go.wait()
            if job.note == "fail":
                raise OSError("told to")


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def app(start: Start, held: Held) -> AsyncIterator[App]:
    """The app without workers: what is enqueued waits."""
    async with start(held.app, workers=False):
        yield held.app


async def stored(outside: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await outside.fetch(
        "select id, payload from chimpbase.job union all select id, payload from chimpbase.job_later order by id"
    )
    return [(row["id"], json.loads(row["payload"])["note"]) for row in rows]
