"""Explain: why a job is where it is, and which transactions stand in the way of everybody.

Each function runs the statement of the same name in `explain.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from chimpbase._core.values import JobId, ProcessId, QueueId, QueueKind
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "explain.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """A job and what bears on it.

    `word` is the outcome of a job that is done, and the reason of a dead one; `ended_at` when that was. `due_at` is
    None for what waits in job_later for something else than a time. `locker` is the transaction that touched the row
    last, `strike` the first strike that wants the job held, as JSON text.
    """

    place: Literal["job", "later", "gate", "dead", "done"]
    attempts: int
    crashes: int
    enqueued_at: datetime
    claimed_at: datetime | None
    due_at: datetime | None
    ended_at: datetime | None
    word: str | None
    error_type: str | None
    error: str | None
    locker: str | None
    process: ProcessId | None
    queue: QueueId
    name: str
    kind: QueueKind
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    max_attempts: int
    app: str | None
    host: str | None
    pid: int | None
    is_lost: bool
    cancel_asked: bool
    now: datetime
    run: str | None
    strike: str | None
    ahead: int
    workers: Sequence[ProcessId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A job that another waits for, and where it is; `total` is how many there are."""

    job: JobId
    state: Literal["waiting", "running", "completed", "cancelled", "dead", "gone"]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A session with an open transaction; `age_s` is since it began."""

    pid: int
    application: str
    user: str | None
    state: str | None
    age_s: float


async def find(connection: Queryable, *, job: JobId) -> Whereabouts | None:
    """Where a job is; None when nobody knows it."""
    row = await connection.fetch_one(*_SQL.find.bind(job=job))
    return Whereabouts(**dict(row)) if row else None


async def list_needs(connection: Queryable, *, job: JobId, most: int) -> list[Need]:
    """What a job waits for, dead letters first; at most so many of them."""
    return [Need(**dict(row)) for row in await connection.fetch(*_SQL.list_needs.bind(job=job, most=most))]


async def find_holder(connection: Queryable, *, xid: str) -> Holder | None:
    """Whose transaction that is, while it is open."""
    row = await connection.fetch_one(*_SQL.find_holder.bind(xid=xid))
    return Holder(**dict(row)) if row else None


async def find_oldest_transaction(connection: Connection, *, age: timedelta) -> Holder | None:
    """The transaction that keeps dead rows from being removed, when it is older than `age`."""
    row = await connection.fetch_one(*_SQL.find_oldest_transaction.bind(age=age))
    return Holder(**dict(row)) if row else None
