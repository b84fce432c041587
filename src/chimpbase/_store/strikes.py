"""Strikes: rows of `chimpbase.strike`, and what they hold.

Each function runs the statement of the same name in `strikes.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chimpbase._core.values import QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "strikes.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrikeRow:
    """A strike; `filter` is JSON text."""

    id: int
    queue: str
    filter: str
    reason: str | None
    created_by: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How many jobs moved; `next` is the id to go on after, None at the end."""

    moved: int
    next: int | None


async def put(connection: Queryable, *, queue: QueueId, filter: str, reason: str | None, by: str) -> int:
    """Hold the jobs of a queue that contain `filter` (JSON text); the strike's id."""
    return await connection.fetch_value(*_SQL.put.bind(queue=queue, filter=filter, reason=reason, by=by))


async def lift(connection: Queryable, *, strike: int) -> QueueId | None:
    """Hold them no more; the queue, None when there is no such strike."""
    return await connection.fetch_value(*_SQL.lift.bind(strike=strike))


async def list_strikes(connection: Queryable) -> list[StrikeRow]:
    """Every strike, the oldest first."""
    return [StrikeRow(**dict(row)) for row in await connection.fetch(*_SQL.list_strikes.bind())]


async def sweep(connection: Connection, *, span: int, after: int) -> Swept:
    """Move struck jobs aside and freed ones back."""
    row = await connection.fetch_one(*_SQL.sweep.bind(span=span, after=after))
    assert row is not None  # a function with `out` parameters answers with one row
    return Swept(moved=row["moved"], next=row["next"])
