"""Inspect: queues with what is in them, and jobs by where they are, for people.

Each function runs the statement of the same name in `inspect.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chimpbase._core.values import JobId, QueueId, QueueKind
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "inspect.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A queue and what is in it. `limits` is JSON text; `oldest_s` the age of the oldest job that is ready."""

    name: str
    kind: QueueKind
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    limits: str
    processes: int
    ready: int
    running: int
    later: int
    dead: int
    oldest_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job at a glance. `at` is when it began, falls due, or ended; `payload` the first 200 characters of its text."""

    id: JobId
    queue: str
    state: str
    attempts: int
    priority: int
    enqueued_at: datetime
    at: datetime | None
    payload: str


async def list_queues(connection: Queryable) -> list[QueueRow]:
    """Every queue, by name."""
    return [QueueRow(**dict(row)) for row in await connection.fetch(*_SQL.list_queues.bind())]


async def list_jobs(connection: Queryable, *, queue: QueueId | None, state: str | None, most: int) -> list[JobRow]:
    """Jobs, newest first; without `state` all that are not done."""
    rows = await connection.fetch(*_SQL.list_jobs.bind(queue=queue, state=state, most=most))
    return [JobRow(**dict(row)) for row in rows]
