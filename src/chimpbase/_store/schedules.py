"""Schedules and occurrences: rows of `chimpbase.schedule` and `chimpbase.occurrence`.

Each function runs the statement of the same name in `schedules.sql`. Nobody leads: an occurrence exists once because
its row does, whoever tries to fire it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from chimpbase._core.values import (
    DueSchedule,
    JobId,
    OccurrenceState,
    QueueId,
    ScheduleSpec,
    ScheduleTerms,
    StoredSchedule,
)
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "schedules.sql")


class Plan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What becomes of one instant of a locked schedule, or of none when `due_at` is None.

    One plan of each schedule has the `next_at` it moves on to, and says whether occurrences wait from now on.
    """

    schedule: str
    due_at: datetime | None = None
    state: OccurrenceState = "fired"
    delay: timedelta = timedelta(0)
    next_at: datetime | None = None
    waits: bool = False


async def clock(connection: Queryable) -> datetime:
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
            max_missed=[spec.max_missed for spec in specs],
            overlaps=[spec.overlap for spec in specs],
            jitters=[spec.jitter for spec in specs],
            payloads=[spec.payload for spec in specs],
            queues=[spec.queue for spec in specs],
            next_ats=[spec.next_at for spec in specs],
        )
    )


async def schedule(
    connection: Queryable, terms: ScheduleTerms, *, queue: str, next_at: datetime
) -> tuple[QueueId | None, bool]:
    """Make or change a schedule; its queue's id, None when there is no such queue, and whether it was stored."""
    row = await connection.fetch_one(
        *_SQL.schedule.bind(
            name=terms.name,
            expression=terms.expression,
            tz=terms.tz,
            misfire=terms.misfire,
            max_missed=terms.max_missed,
            overlap=terms.overlap,
            jitter=terms.jitter,
            payload=terms.payload,
            queue=queue,
            next_at=next_at,
        )
    )
    assert row is not None  # a select without `from` answers with one row
    return row["queue"], row["stored"]


async def get(connection: Queryable, *, name: str) -> StoredSchedule | None:
    """A schedule as it stands."""
    row = await connection.fetch_one(*_SQL.get.bind(name=name))
    return None if row is None else StoredSchedule(**dict(row))


async def list_all(connection: Queryable, *, prefix: str, after: str, max_rows: int) -> list[StoredSchedule]:
    """Schedules by name, a page at a time."""
    rows = await connection.fetch(*_SQL.list_all.bind(prefix=prefix, after=after, max_rows=max_rows))
    return [StoredSchedule(**dict(row)) for row in rows]


async def pause(connection: Queryable, *, name: str) -> bool:
    """Fire a schedule no more; whether there is one of that name."""
    return bool(await connection.fetch_value(*_SQL.pause.bind(name=name)))


async def resume(connection: Queryable, *, name: str, expression: str, tz: str, next_at: datetime) -> bool:
    """Let a paused schedule go on; False when it is not paused, or has another cadence by now."""
    return bool(
        await connection.fetch_value(*_SQL.resume.bind(name=name, expression=expression, tz=tz, next_at=next_at))
    )


async def remove(connection: Queryable, *, name: str) -> bool:
    """Forget a schedule; whether there was one."""
    return bool(await connection.fetch_value(*_SQL.remove.bind(name=name)))


async def run_now(
    connection: Queryable, *, name: str, payload: str | None, headers: str | None
) -> tuple[JobId, QueueId] | None:
    """Make a job of a schedule now; None when there is no such schedule."""
    row = await connection.fetch_one(*_SQL.run_now.bind(name=name, payload=payload, headers=headers))
    return None if row is None else (row["id"], row["queue"])


async def list_due(connection: Connection, *, queues: Sequence[QueueId], max_schedules: int) -> list[DueSchedule]:
    """Lock due schedules until the caller's transaction ends."""
    rows = await connection.fetch(*_SQL.list_due.bind(queues=queues, max_schedules=max_schedules))
    return [DueSchedule(*row) for row in rows]


async def list_waiting(
    connection: Connection, *, queues: Sequence[QueueId], max_schedules: int
) -> list[tuple[str, JobId | None]]:
    """Lock schedules whose waiting occurrences may run now, with their last jobs."""
    rows = await connection.fetch(*_SQL.list_waiting.bind(queues=queues, max_schedules=max_schedules))
    return [(row["name"], row["last_job"]) for row in rows]


async def list_unfinished(connection: Connection, jobs: Sequence[JobId]) -> set[JobId]:
    """Which of these jobs have not ended."""
    return {row[0] for row in await connection.fetch(*_SQL.list_unfinished.bind(jobs=jobs))}


async def cancel(connection: Connection, jobs: Sequence[JobId], *, reason: str) -> None:
    """Cancel jobs, waiting or running; those that have ended are left alone."""
    await connection.execute(*_SQL.cancel.bind(jobs=jobs, reason=reason))


async def release(connection: Connection, names: Sequence[str]) -> list[QueueId]:
    """Let the oldest waiting occurrence of each locked schedule run; the queues that got a job."""
    row = await connection.fetch_one(*_SQL.release.bind(names=names))
    return row["queues"] if row else []


async def fire(connection: Connection, plans: Sequence[Plan]) -> tuple[list[QueueId], float | None]:
    """Settle locked schedules; the queues with new ready jobs, and seconds until the next later one falls due."""
    row = await connection.fetch_one(
        *_SQL.fire.bind(
            schedules=[plan.schedule for plan in plans],
            due_ats=[plan.due_at for plan in plans],
            states=[plan.state for plan in plans],
            delays=[plan.delay for plan in plans],
            next_ats=[plan.next_at for plan in plans],
            waits=[plan.waits for plan in plans],
        )
    )
    return (row["queues"], row["later_s"]) if row else ([], None)


async def prune(connection: Connection, *, age: timedelta, max_rows: int) -> int:
    """Forget old occurrences; how many rows went. A full batch suggests more."""
    status = await connection.execute(*_SQL.prune.bind(age=age, max_rows=max_rows))
    return int(status.split()[-1])
