"""Consumers: rows of `chimpbase.consumer`, `consumer_slot` and `consumer_dead`.

Each function runs the statement of the same name in `consumers.sql`. (process, fence) is the right to move a slot:
whoever was declared dead, or was rewound, moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chimpbase._core.positions import Position, Snapshot
from chimpbase._core.values import ProcessId, StoredEntry
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "consumers.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A consumer as the database knows it; `partitions` is what it began with."""

    id: int
    stream: str
    shelf: int
    partitions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A slot in the hands of a process. `attempt` counts since it last moved."""

    consumer: int
    slot: int
    process: ProcessId
    fence: int
    attempt: int


async def declare(
    connection: Connection, *, name: str, stream: str, partitions: int, start: str, since: datetime | None
) -> Declared:
    """Make a consumer known. Idempotent; what is known already stays as it is."""
    row = await connection.fetch_one(
        *_SQL.declare.bind(name=name, stream=stream, partitions=partitions, start=start, since=since)
    )
    assert row is not None  # a function call always answers with one row
    return Declared(id=row[0], stream=row[1], shelf=row[2], partitions=row[3])


async def take(
    connection: Connection, *, consumer: int, stream: int, process: ProcessId, running: Sequence[int]
) -> tuple[Lease, Position] | None:
    """Lease a slot that has something to read, and where it is; None when there is none. `running` are leased here."""
    row = await connection.fetch_one(*_SQL.take.bind(consumer=consumer, process=process, running=list(running)))
    if row is None:
        return None
    lease = Lease(consumer=consumer, slot=row["slot"], process=process, fence=row["fence"], attempt=row["attempt"])
    prev = None if row["prev"] is None else Snapshot(row["prev_epoch"], row["prev"])
    cur = None if row["cur"] is None else Snapshot(row["cur_epoch"], row["cur"])
    return lease, Position(stream=stream, since=row["since"], prev=prev, cur=cur, floor=row["floor"], last=row["last"])


async def move(connection: Queryable, *, lease: Lease, position: Position) -> bool:
    """Move a slot on and let it go; whether the lease still held."""
    return None is not await connection.fetch_value(
        *_SQL.move.bind(
            consumer=lease.consumer, slot=lease.slot, process=lease.process, fence=lease.fence, **_place(position)
        )
    )


async def put_off(
    connection: Queryable, *, lease: Lease, delay: timedelta, charged: bool, blocked: bool, error: str | None
) -> bool:
    """Let a slot go where it is; whether the lease still held."""
    return None is not await connection.fetch_value(
        *_SQL.put_off.bind(
            consumer=lease.consumer,
            slot=lease.slot,
            process=lease.process,
            fence=lease.fence,
            delay=delay,
            charged=charged,
            blocked=blocked,
            error=error,
        )
    )


async def bury(connection: Queryable, *, lease: Lease, entry: StoredEntry, error: str) -> None:
    """Keep an entry as a dead letter of the consumer."""
    await connection.execute(
        *_SQL.bury.bind(
            consumer=lease.consumer,
            entry=entry.id,
            slot=lease.slot,
            version=entry.version,
            appended_at=entry.appended_at,
            key=entry.key,
            payload=entry.payload,
            headers=entry.headers,
            error=error,
        )
    )


async def next_redriven(connection: Queryable, *, lease: Lease) -> StoredEntry | None:
    """The first dead letter of a slot that is to be handled once more; None when there is none."""
    row = await connection.fetch_one(*_SQL.next_redriven.bind(consumer=lease.consumer, slot=lease.slot))
    if row is None:
        return None
    return StoredEntry(
        id=row["id"],
        version=row["version"],
        key=row["key"],
        payload=row["payload"],
        appended_at=row["appended_at"],
        headers=row["headers"],
    )


async def revive(connection: Queryable, *, lease: Lease, entry: int) -> None:
    """Forget a dead letter that has been handled after all."""
    await connection.execute(*_SQL.revive.bind(consumer=lease.consumer, entry=entry))


async def list_dead(connection: Queryable, *, name: str, after: int, most: int) -> list[dict[str, object]]:
    """Dead letters of a consumer, by entry."""
    return [dict(row) for row in await connection.fetch(*_SQL.list_dead.bind(name=name, after=after, most=most))]


async def redrive(connection: Queryable, *, name: str, entries: Sequence[int] | None) -> int:
    """Have dead letters of a consumer handled once more; how many."""
    return _count(await connection.execute(*_SQL.redrive.bind(name=name, entries=_listed(entries))))


async def purge(connection: Queryable, *, name: str, entries: Sequence[int] | None) -> int:
    """Delete dead letters of a consumer; how many."""
    return _count(await connection.execute(*_SQL.purge.bind(name=name, entries=_listed(entries))))


async def rewind(connection: Queryable, *, name: str, position: Position) -> int:
    """Send a consumer to a place; how many slots went there."""
    status = await connection.execute(*_SQL.rewind.bind(name=name, **_place(position)))
    return int(status.split()[-1])


async def find(connection: Queryable, *, name: str) -> tuple[int, str, int, int] | None:
    """The consumer's number, and its stream's name, number and shelf; None when there is none of that name."""
    row = await connection.fetch_one(*_SQL.find.bind(name=name))
    return None if row is None else (row[0], row[1], row[2], row[3])


async def set_paused(connection: Queryable, *, name: str, paused: bool) -> bool:
    """Pause a consumer or let it go on; whether there is one of that name."""
    return None is not await connection.fetch_value(*_SQL.set_paused.bind(name=name, paused=paused))


async def list_all(connection: Queryable) -> list[dict[str, object]]:
    """Every slot of every consumer, by name and number."""
    return [dict(row) for row in await connection.fetch(*_SQL.list_all.bind())]


def _listed(entries: Sequence[int] | None) -> list[int] | None:
    return None if entries is None else list(entries)


def _count(status: str) -> int:
    return int(status.rsplit(maxsplit=1)[-1])


def _place(position: Position) -> dict[str, object]:
    prev, cur = position.prev, position.cur
    return {
        "since": position.since,
        "prev_epoch": prev.epoch if prev else None,
        "prev": prev.text if prev else None,
        "cur_epoch": cur.epoch if cur else None,
        "cur": cur.text if cur else None,
        "floor": position.floor,
        "last": position.last,
    }
