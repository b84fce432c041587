"""Dead letters: rows of `chimpbase.job_dead`, listed, given new attempts, and deleted.

Each function runs the statement of the same name in `dead_letters.sql`. A `filter` is JSON text, as `find_dead`
takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from chimpbase._core.values import DeathReason, JobId, QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "dead_letters.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRow:
    """A dead letter. `payload` is JSON text; `errors` are its last ten, the oldest first."""

    id: JobId
    queue: str
    payload: str
    reason: DeathReason
    errors: list[dict[str, Any]]
    attempts: int
    died_at: datetime
    enqueued_at: datetime


async def list_dead(
    connection: Queryable, *, filter: str, before: tuple[datetime, int] | None, most: int
) -> list[DeadRow]:
    """Dead letters, newest first; `before` is when the last one seen died, and its id."""
    at, id = before or (None, None)
    rows = await connection.fetch(*_SQL.list_dead.bind(filter=filter, before_at=at, before_id=id, most=most))
    return [
        DeadRow(
            id=row["id"],
            queue=row["queue"],
            payload=row["payload"],
            reason=row["reason"],
            errors=_errors(row["errors"]),
            attempts=row["attempts"],
            died_at=row["died_at"],
            enqueued_at=row["enqueued_at"],
        )
        for row in rows
    ]


async def count_dead(connection: Queryable, *, filter: str, most: int) -> int:
    """How many a filter names; the count stops at `most`."""
    return await connection.fetch_value(*_SQL.count_dead.bind(filter=filter, most=most))


async def redrive(
    connection: Queryable, *, filter: str, start: datetime, gap: timedelta, most: int
) -> list[tuple[JobId, QueueId]]:
    """Give dead letters new attempts, `gap` apart from `start`; which, and in which queues."""
    rows = await connection.fetch(*_SQL.redrive.bind(filter=filter, start=start, gap=gap, most=most))
    return [(id, queue) for id, queue in rows]


async def purge(connection: Queryable, *, filter: str, most: int) -> int:
    """Delete dead letters; how many."""
    return await connection.fetch_value(*_SQL.purge.bind(filter=filter, most=most))


async def prune(connection: Connection, *, age: timedelta, most: int) -> int:
    """Delete old dead letters; how many. A full batch suggests more."""
    return await connection.fetch_value(*_SQL.prune.bind(age=age, most=most))


async def hurry(connection: Queryable, *, job: JobId) -> QueueId | None:
    """Let a delayed or retrying job run now; None when it is none, or waits for something else than a time."""
    return await connection.fetch_value(*_SQL.hurry.bind(job=job))


async def clock(connection: Queryable) -> datetime:
    """The database's clock."""
    return await connection.fetch_value(*_SQL.clock.bind())


def _errors(stored: Any) -> list[dict[str, Any]]:
    # handlers' connections read json themselves, the others leave it as text
    return (msgspec.json.decode(stored) if isinstance(stored, str) else stored) or []
