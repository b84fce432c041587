"""Streams: rows of `chimpbase.stream` and `chimpbase.entry`.

Each function runs the statement of the same name in `streams.sql`. `page` is the only way to read on from a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from chimpbase._core.positions import Position, Snapshot
from chimpbase._core.values import StoredEntry, StoredStream
from chimpbase._pg.connection import Connection, Record
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "streams.sql")
_HIGHEST = 2**63 - 1


class NewEntry(NamedTuple):
    """An entry about to be appended; `payload` and `headers` are JSON texts."""

    stream: str
    payload: str
    key: str | None
    headers: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """`ids` is None when the stream was at version `found`, which is not the one that was expected."""

    ids: Sequence[int] | None
    stream: int
    found: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Entries of one window, which ends at `cur`; `top` is the highest id it shows, `horizon` the highest dropped."""

    entries: Sequence[StoredEntry]
    cur: Snapshot
    top: int
    horizon: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A stream with a retention: the first day it covers, the bytes it allows; None where it says nothing."""

    stream: int
    first: date | None
    max_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    day: date
    size: int


async def declare(connection: Queryable, *, name: str, retention: timedelta | None, max_bytes: int | None) -> int:
    """Make a stream known with its retention; its number. Idempotent."""
    return await connection.fetch_value(*_SQL.declare.bind(name=name, retention=retention, max_bytes=max_bytes))


async def begin_epoch(connection: Connection) -> int:
    """The epoch of this cluster; a new one when the database has come from another cluster."""
    return await connection.fetch_value(*_SQL.begin_epoch.bind())


async def append(
    connection: Queryable,
    *,
    stream: str,
    payloads: Sequence[str],
    keys: Sequence[str | None],
    headers: str | None,
    expected: int | None,
) -> Appended:
    """Append entries, all or none; their ids in order."""
    row = await connection.fetch_one(
        *_SQL.append.bind(stream=stream, payloads=list(payloads), keys=list(keys), headers=headers, expected=expected)
    )
    assert row is not None  # a function call always answers with one row
    return Appended(ids=row[0], stream=row[1], found=row[2])


async def append_each(connection: Queryable, new: Sequence[NewEntry]) -> list[tuple[int, int]]:
    """Append entries to streams, all or none, each stream's in order; the id and the stream of each, as given."""
    places = sorted(range(len(new)), key=lambda place: new[place].stream)  # so that no two of these lock in a circle
    sent = [new[place] for place in places]
    rows = await connection.fetch(
        *_SQL.append_each.bind(
            streams=[one.stream for one in sent],
            payloads=[one.payload for one in sent],
            keys=[one.key for one in sent],
            headers=[one.headers for one in sent],
        )
    )
    answers = dict(zip(places, rows, strict=True))
    return [(answers[place][0], answers[place][1]) for place in range(len(new))]


async def find(connection: Queryable, *, name: str) -> StoredStream | None:
    """The stream of that name; None while nobody has declared it or appended to it."""
    row = await connection.fetch_one(*_SQL.find.bind(name=name))
    return None if row is None else StoredStream(id=row[0], shelf=row[1], horizon=row[2], version=row[3])


async def count(connection: Queryable, *, stream: int, shelf: int) -> int:
    """How many entries a stream has."""
    return await connection.fetch_value(*_SQL.count.bind(stream=stream, shelf=shelf))


async def page(
    connection: Queryable,
    *,
    position: Position,
    shelf: int,
    max_entries: int,
    partitions: int = 1,
    partition: int = 0,
) -> Page:
    """The next entries of the position's window, or of a new one that ends now, in one partition of them."""
    prev, cur = position.prev, position.cur
    rows = await connection.fetch(
        *_SQL.page.bind(
            stream=position.stream,
            shelf=shelf,
            prev_epoch=prev.epoch if prev else None,
            prev=prev.text if prev else None,
            cur_epoch=cur.epoch if cur else None,
            cur=cur.text if cur else None,
            floor=position.floor,
            last=position.last,
            since=position.since,
            partitions=partitions,
            part=partition,
            max_entries=max_entries,
        )
    )
    return _page(rows)


async def page_back(connection: Queryable, *, position: Position, shelf: int, max_entries: int) -> Page:
    """The entries before the position, the latest one first."""
    cur = position.cur
    rows = await connection.fetch(
        *_SQL.page_back.bind(
            stream=position.stream,
            shelf=shelf,
            cur_epoch=cur.epoch if cur else None,
            cur=cur.text if cur else None,
            before=position.last or _HIGHEST,
            since=position.since,
            max_entries=max_entries,
        )
    )
    return _page(rows)


async def list_all(connection: Queryable) -> list[dict[str, object]]:
    """Every stream of the database, by name."""
    return [dict(row) for row in await connection.fetch(*_SQL.list_all.bind())]


async def list_kept(connection: Connection) -> tuple[date, list[Kept]]:
    """Today, and the streams with a retention."""
    rows = await connection.fetch(*_SQL.list_kept.bind())
    kept = [Kept(stream=row[1], first=row[2], max_bytes=row[3]) for row in rows if row[1] is not None]
    return rows[0][0], kept


async def list_days(connection: Connection, *, stream: int) -> list[Day]:
    """The days that a stream's shelf has."""
    return [Day(day=row[0], size=row[1]) for row in await connection.fetch(*_SQL.list_days.bind(stream=stream))]


async def create_day(connection: Connection, *, stream: int, day: date) -> None:
    """Make a day of a stream's shelf. Idempotent."""
    await connection.execute(*_SQL.create_day.bind(stream=stream, day=day))


async def drop_day(connection: Connection, *, stream: int, day: date) -> None:
    """Drop a day of a stream's shelf with all its entries."""
    await connection.execute(*_SQL.drop_day.bind(stream=stream, day=day))


def _page(rows: Sequence[Record]) -> Page:
    *found, end = rows
    entries = [
        StoredEntry(
            id=row["id"],
            version=row["version"],
            key=row["key"],
            payload=row["payload"],
            appended_at=row["appended_at"],
            headers=row["headers"],
        )
        for row in found
    ]
    cur = Snapshot(end["era"], end["window_end"])
    return Page(entries=entries, cur=cur, top=end["top"] or 0, horizon=end["horizon"] or 0)
