"""Key-value pairs: rows of `chimpbase.kv`.

Each function runs the statement of the same name in `kv.sql`. Expiry is judged by the database's clock at every read.
A lock is a pair whose version is the fence of whoever holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "kv.sql")


class Place(NamedTuple):
    """Where a pair is kept: `cached` in the unlogged table, which a crash of the server empties."""

    cached: bool
    namespace: str


class KeyRange(NamedTuple):
    """Keys from `start` up to `stop`, which is not included, in the order of their bytes."""

    start: str
    stop: str


class NewPair(NamedTuple):
    """A value (JSON text) to be stored; `ttl` None is for ever."""

    namespace: str
    key: str
    value: str
    ttl: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A pair as it is stored; `value` (JSON text) is None when it was not asked for."""

    key: str
    version: int
    expires_at: datetime | None
    value: str | None


async def get(connection: Queryable, *, cached: bool, keys: Sequence[tuple[str, str]]) -> list[str | None]:
    """The values (JSON texts) of these (namespace, key), in order; None where there is none or it has expired."""
    rows = await connection.fetch(
        *_SQL.get.bind(cached=cached, namespaces=[one[0] for one in keys], keys=[one[1] for one in keys])
    )
    return [row[0] for row in rows]


async def find(connection: Queryable, *, place: Place, key: str) -> Pair | None:
    """One pair with its version, or None."""
    row = await connection.fetch_one(*_SQL.find.bind(cached=place.cached, namespace=place.namespace, key=key))
    return None if row is None else Pair(**dict(row))


async def list_pairs(
    connection: Queryable, *, place: Place, keys: KeyRange, after: str, max_pairs: int, values: bool
) -> list[Pair]:
    """The pairs of a range that come after `after`, by key."""
    rows = await connection.fetch(
        *_SQL.list_pairs.bind(
            cached=place.cached,
            namespace=place.namespace,
            start=keys.start,
            stop=keys.stop,
            after=after,
            max_pairs=max_pairs,
            values=values,
        )
    )
    return [Pair(**dict(row)) for row in rows]


async def list_namespaces(connection: Queryable) -> list[Place]:
    """Every namespace that holds something."""
    return [Place(row["cached"], row["namespace"]) for row in await connection.fetch(*_SQL.list_namespaces.bind())]


async def draw(connection: Queryable, *, cached: bool, count: int) -> list[int]:
    """Versions that no pair will ever have."""
    return [row[0] for row in await connection.fetch(*_SQL.draw.bind(cached=cached, count=count))]


async def set(connection: Queryable, *, cached: bool, pairs: Sequence[NewPair]) -> list[int]:
    """Store pairs, whose keys are sorted and each of them there once; their versions, in order."""
    rows = await connection.fetch(
        *_SQL.set.bind(
            cached=cached,
            namespaces=[pair.namespace for pair in pairs],
            keys=[pair.key for pair in pairs],
            values=[pair.value for pair in pairs],
            ttls=[pair.ttl for pair in pairs],
        )
    )
    return [row[0] for row in rows]


async def add(connection: Queryable, *, cached: bool, pair: NewPair) -> int | None:
    """Store a pair where there is none; its version, or None when there was one."""
    return await connection.fetch_value(
        *_SQL.add.bind(cached=cached, namespace=pair.namespace, key=pair.key, value=pair.value, ttl=pair.ttl)
    )


async def swap(connection: Queryable, *, cached: bool, pair: NewPair, version: int) -> int | None:
    """Store a value over the one of that version; the new version, or None when that is not the version."""
    return await connection.fetch_value(
        *_SQL.swap.bind(
            cached=cached, namespace=pair.namespace, key=pair.key, value=pair.value, ttl=pair.ttl, version=version
        )
    )


async def incr(connection: Queryable, *, place: Place, key: str, by: int, ttl: timedelta | None) -> int | None:
    """Add to a whole number; the sum, or None when it is no whole number or does not fit 64 bits."""
    return await connection.fetch_value(
        *_SQL.incr.bind(cached=place.cached, namespace=place.namespace, key=key, by=by, ttl=ttl)
    )


async def spend(
    connection: Queryable, *, namespace: str, key: str, cost: timedelta, per: timedelta
) -> tuple[bool, float]:
    """Spend of an allowance: whether there was enough, and in how many seconds all of it is there again."""
    row = await connection.fetch_one(*_SQL.spend.bind(namespace=namespace, key=key, cost=cost, per=per))
    assert row is not None  # it selects from one row
    return row["allowed"], row["full_in_s"]


async def delete(connection: Queryable, *, place: Place, key: str, version: int | None) -> bool:
    """Remove a pair, of that version if one is given; whether there was one that had not expired."""
    return bool(
        await connection.fetch_value(
            *_SQL.delete.bind(cached=place.cached, namespace=place.namespace, key=key, version=version)
        )
    )


async def clear(connection: Queryable, *, place: Place, keys: KeyRange) -> int:
    """Remove a range of pairs; how many there were to see."""
    return await connection.fetch_value(
        *_SQL.clear.bind(cached=place.cached, namespace=place.namespace, start=keys.start, stop=keys.stop)
    )


async def renew(connection: Queryable, *, namespace: str, key: str, fence: int, ttl: timedelta) -> bool:
    """Keep a lock for another `ttl`; whether it was still this fence's."""
    return bool(await connection.fetch_value(*_SQL.renew.bind(namespace=namespace, key=key, fence=fence, ttl=ttl)))


async def confirm(connection: Queryable, *, namespace: str, key: str, fence: int) -> bool:
    """Hold on to a lock until the transaction ends; whether it was still this fence's."""
    return bool(await connection.fetch_value(*_SQL.confirm.bind(namespace=namespace, key=key, fence=fence)))


async def release(connection: Queryable, *, namespace: str, key: str, fence: int) -> bool:
    """Let go of a lock; whether it was still this fence's."""
    return bool(await connection.fetch_value(*_SQL.release.bind(namespace=namespace, key=key, fence=fence)))


async def count_blocks(connection: Connection) -> int:
    """How many pages the sweep has before it."""
    return await connection.fetch_value(*_SQL.count_blocks.bind())


async def sweep(connection: Connection, *, first: int, last: int) -> int:
    """Free the space of expired pairs in the pages from `first` to before `last`; how many rows went."""
    status = await connection.execute(*_SQL.sweep.bind(first=(first, 0), last=(last, 0)))
    return int(status.split()[-1])
