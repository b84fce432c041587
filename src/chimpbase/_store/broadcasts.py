"""Broadcasts: rows of `chimpbase.broadcast`, which live for a minute or two.

Each function runs the statement of the same name in `broadcasts.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "broadcasts.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """A message as it was sent: its payload and headers are JSON texts."""

    topic: str
    payload: str
    headers: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a look brought. `upto` is where the next one goes on; `era` is None when none has begun."""

    era: str | None
    upto: str
    heard_at_s: float
    broadcasts: Sequence[Broadcast]


async def send(connection: Queryable, *, topic: str, payload: str, headers: str | None) -> None:
    """Store a broadcast for those who look within the next minute."""
    await connection.execute(*_SQL.send.bind(topic=topic, payload=payload, headers=headers))


async def hear(connection: Connection, *, after: str | None, wanted: str, max_broadcasts: int) -> Heard:
    """What was committed after a snapshot, of which None shows everything; `wanted` is a regular expression."""
    rows = await connection.fetch(*_SQL.hear.bind(after=after, wanted=wanted, max_broadcasts=max_broadcasts))
    first = rows[0]
    return Heard(
        era=None if first["era"] is None else str(first["era"]),
        upto=first["upto"],
        heard_at_s=first["heard_at_s"],
        broadcasts=[
            Broadcast(topic=row["topic"], payload=row["payload"], headers=row["headers"])
            for row in rows
            if row["id"] is not None
        ],
    )


async def begin_era(connection: Connection) -> None:
    """Begin an era, unless one has begun."""
    await connection.execute(*_SQL.begin_era.bind())


async def snapshot(connection: Connection) -> str:
    """What is committed now."""
    return await connection.fetch_value(*_SQL.snapshot.bind())


async def prune(connection: Connection, *, seen: str, max_broadcasts: int) -> int:
    """Remove broadcasts that a snapshot shows; how many. A full batch suggests more."""
    status = await connection.execute(*_SQL.prune.bind(seen=seen, max_broadcasts=max_broadcasts))
    return int(status.split()[-1])
