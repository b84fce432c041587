"""Following a job: what became of it, and how far it says that it is.

Each function runs the statement of the same name in `following.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from chimpbase._core.values import DeathReason, JobId
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "following.sql")

JobState = Literal["waiting", "running", "completed", "cancelled", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedJob:
    """A job as it stands. `payload`, `result` and `errors` are JSON texts."""

    state: JobState
    queue: str
    key: str | None
    priority: int | None
    attempts: int
    enqueued_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    payload: str
    result: str | None
    reason: DeathReason | None
    errors: str | None
    fraction: float | None
    note: str | None
    at: datetime | None


class Report(msgspec.Struct, frozen=True, gc=False):
    """How far an attempt is, from 0 to 1, and what it says about it."""

    job: JobId
    attempt: int
    fraction: float
    note: str | None


async def get(connection: Queryable, *, id: JobId) -> FollowedJob | None:
    """A job by its id; None when there is none, or its queue keeps no history of it."""
    row = await connection.fetch_one(*_SQL.get.bind(id=id))
    return FollowedJob(**dict(row)) if row else None


async def report(connection: Connection, *, reports: Sequence[Report]) -> None:
    """Write how far jobs are; at most one report of each job."""
    await connection.execute(
        *_SQL.report.bind(
            jobs=[one.job for one in reports],
            attempts=[one.attempt for one in reports],
            fractions=[one.fraction for one in reports],
            notes=[one.note for one in reports],
        )
    )


async def sweep(connection: Connection, *, max_rows: int) -> int:
    """Delete reports that nobody will ask for; how many."""
    return await connection.fetch_value(*_SQL.sweep.bind(max_rows=max_rows))
