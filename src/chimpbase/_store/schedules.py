"""Schedules and occurrences: rows of `chimpbase.schedule` and `chimpbase.occurrence`.

Each function runs the statement of the same name in `schedules.sql`. Nobody leads: an occurrence exists once because
its row does, whoever tries to fire it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chimpbase._core.values import DueSchedule, QueueId, ScheduleSpec
from chimpbase._pg.connection import Connection
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "schedules.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """An occurrence that should become a job; `headers` is a JSON text."""

    schedule: str
    due_at: datetime
    queue: QueueId
    headers: str | None


async def clock(connection: Connection) -> datetime:
    """The database's clock, aware, in UTC."""
    return await connection.fetch_value(*_SQL.clock.bind())


async def register(connection: Connection, specs: Sequence[ScheduleSpec]) -> None:
    """Make sure these schedules exist. Idempotent: an unchanged one keeps its place in time, and its pause."""
    await connection.execute(
        *_SQL.register.bind(
            names=[spec.name for spec in specs],
            expressions=[spec.expression for spec in specs],
            zones=[spec.tz for spec in specs],
            misfires=[spec.misfire for spec in specs],
            queues=[spec.queue for spec in specs],
            next_ats=[spec.next_at for spec in specs],
        )
    )


async def list_due(connection: Connection, *, max_schedules: int) -> list[DueSchedule]:
    """Lock due schedules until the caller's transaction ends."""
    rows = await connection.fetch(*_SQL.list_due.bind(max_schedules=max_schedules))
    return [DueSchedule(**dict(row)) for row in rows]


async def fire(connection: Connection, owed: Sequence[Owed]) -> list[QueueId]:
    """Turn occurrences into jobs; the queue of each job made. One that was fired before makes none."""
    rows = await connection.fetch(
        *_SQL.fire.bind(
            schedules=[one.schedule for one in owed],
            due_ats=[one.due_at for one in owed],
            queues=[one.queue for one in owed],
            headers=[one.headers for one in owed],
        )
    )
    return [row[0] for row in rows]


async def advance(connection: Connection, next_ats: Sequence[tuple[str, datetime]]) -> None:
    """Move schedules on to their next instant."""
    await connection.execute(
        *_SQL.advance.bind(names=[name for name, _ in next_ats], next_ats=[instant for _, instant in next_ats])
    )


async def prune(connection: Connection, *, age: timedelta, max_rows: int) -> int:
    """Forget old occurrences; how many rows went. A full batch suggests more."""
    status = await connection.execute(*_SQL.prune.bind(age=age, max_rows=max_rows))
    return int(status.split()[-1])
