"""The stand: one server of its own for a run, and what every workload does on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import asyncpg

from chimpbase import App
from chimpbase._pg.databases import create_database, in_database
from chimpbase._pg.db import Db
from chimpbase._pg.embedded import EmbeddedServer

SERVER = {"shared_buffers": "2GB", "max_wal_size": "8GB", "max_connections": "200"}
TABLES = "chimpbase.job, chimpbase.job_later, chimpbase.job_dead, chimpbase.job_done"


class Stand:
    """A database, and a directory for whatever apps need."""

    def __init__(self, dsn: str, directory: Path, version: str) -> None:
        self.dsn, self.directory, self.version = dsn, directory, version

    def running(self, app: App, **options: Any):
        """The app on this server."""
        return app.running(database_url=self.dsn, project=self.directory, **options)

    async def queue(self, name: str) -> int:
        """The number of a queue that some app has declared."""
        return await self.value("select id from chimpbase.queue where name = $1", name)

    async def clean(self) -> None:
        """Empty job tables."""
        await self.value(f"truncate {TABLES}")

    async def value(self, sql: str, *args: object) -> Any:
        """The first value of one statement on a connection of its own."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(sql, *args, timeout=1200)
        finally:
            await connection.close()

    async def empty(self, table: str = "chimpbase.job") -> None:
        """Until a table is empty."""
        # one connection for all looks: to connect for each took the server a core
        connection = await asyncpg.connect(self.dsn)
        try:
            await until(lambda: connection.fetchval(f"select not exists (select 1 from {table})"))
        finally:
            await connection.close()

    async def database(self, name: str) -> str:
        """A fresh database beside this one; its DSN."""
        db = await Db.open(self.dsn, size=1, application_name="bench")
        try:
            await create_database(db, name, template="template0")
        finally:
            await db.close(grace=timedelta(seconds=1))
        return in_database(self.dsn, name)


@asynccontextmanager
async def stand(postgres: Path | None = None) -> AsyncGenerator[Stand]:
    """A server that lives as long as the block, on a real disk, with fsync on."""
    with TemporaryDirectory(prefix="chimpbase-bench-") as directory:
        place = Path(directory)
        async with await EmbeddedServer.start(place / "pg", binaries=postgres, settings=SERVER) as server:
            yield Stand(server.dsn, place, server.version)


async def until(look: Callable[[], Awaitable[Any]], *, deadline_s: float = 900) -> None:
    """Until a look answers yes."""
    deadline = perf_counter() + deadline_s
    while not await look():
        if perf_counter() > deadline:
            raise RuntimeError("it took too long; jobs are stuck")
        await asyncio.sleep(0.02)


def counted_once(seen: list[int], jobs: int) -> None:
    """Every job exactly once, or the run is void."""
    if len(seen) != jobs or len(set(seen)) != jobs:
        raise RuntimeError(f"{jobs} jobs in, {len(seen)} runs of {len(set(seen))} jobs")
