"""Running apps under test: the fixtures that stories, app and engine tests share, and an ear on every statement."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest

from chimpbase import App, Runtime


class Start(Protocol):
    """Run an app on the test's database, fast paced; keyword arguments override its settings."""

    def __call__(self, app: App, **settings: Any) -> AbstractAsyncContextManager[Runtime]: ...


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Start:
    pace: dict[str, Any] = {
        "lease": timedelta(seconds=3),
        "poll": timedelta(seconds=0.1),
        "grace": timedelta(seconds=1),
    }

    def start(app: App, **settings: Any) -> AbstractAsyncContextManager[Runtime]:
        return app.running(database_url=dsn, project=tmp_path, **{**pace, **settings})

    return start


@pytest.fixture
async def outside(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that the app knows nothing of, and a table `ledger` without any unique key, so that doubles show."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table ledger (who text, note text, at timestamptz default clock_timestamp())")
    yield connection
    await connection.close()


class Ear:
    """A statement hook: keeps what was sent, and lets a test act before or after a statement."""

    def __init__(
        self,
        *,
        before: Callable[[str], Awaitable[None] | None] | None = None,
        after: Callable[[str], Awaitable[None] | None] | None = None,
    ) -> None:
        self.heard: list[str] = []
        self._before, self._after = before, after

    def before(self, sql: str, args: Sequence[object]) -> Awaitable[None] | None:
        self.heard.append(" ".join(sql.split()))
        return self._before(sql) if self._before else None

    def after(self, sql: str, error: BaseException | None) -> Awaitable[None] | None:
        return self._after(sql) if self._after else None


def listen_to_handlers(runtime: Runtime, ear: Ear) -> Ear:
    """Put the ear on every connection that handlers use from now on."""
    db: Any = runtime._db
    db._hook = ear
    db._pool.expire()
    return ear


def listen_to_engine(runtime: Runtime, ear: Ear) -> Ear:
    """Put the ear on every connection of the engine's own from now on."""
    db: Any = runtime._backstage.engine._db  # type: ignore[union-attr]
    db._hook = ear
    db._pool.expire()
    return ear


async def left_over(outside: asyncpg.Connection) -> dict[str, int]:
    """How many rows the tables of unfinished work hold; those with none are left out."""
    tables = ("job", "job_wait", "job_later", "job_dead", "event", "run", "signal", "kv")
    counts = {table: await outside.fetchval(f"select count(*) from chimpbase.{table}") for table in tables}
    return {table: count for table, count in counts.items() if count}


async def notes(outside: asyncpg.Connection) -> list[str]:
    """What the ledger says, in the order written."""
    return [row[0] for row in await outside.fetch("select note from ledger order by at")]


async def is_idle(outside: asyncpg.Connection) -> bool:
    """Whether no job is ready, running or waiting for its time."""
    return not await outside.fetchval(
        "select exists (select from chimpbase.job union all select from chimpbase.job_later "
        "union all select from chimpbase.job_wait)"
    )


async def history(outside: asyncpg.Connection, table: str) -> list[asyncpg.Record]:
    """The rows of `job_done` or `job_dead`, oldest job first, with the queue's name and the errors decoded."""
    rows = await outside.fetch(
        f"select name, job.* from chimpbase.{table} job join chimpbase.queue on queue.id = job.queue order by job.id"
    )
    return list(rows)


def errors_of(row: asyncpg.Record) -> list[tuple[int, str, str]]:
    """A job's error history: attempt, kind, message."""
    return [(one["attempt"], one["error"], one["message"]) for one in json.loads(row["errors"] or "[]")]


async def the_row(outside: asyncpg.Connection, sql: str, *args: object) -> asyncpg.Record:
    """The one row of a query."""
    (row,) = await outside.fetch(sql, *args)
    return row


async def the_value(outside: asyncpg.Connection, sql: str, *args: object) -> Any:
    """The first column of the one row of a query."""
    return (await the_row(outside, sql, *args))[0]
