"""The codes of workflows that were ever deployed, by their hash. Each function runs the statement of its name.

A run names the code that last ran it, so what that code mentioned can be compared with what the code at hand does.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import msgspec

from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "workflow_codes.sql")


async def register(connection: Connection, codes: Mapping[str, AbstractSet[str]]) -> None:
    """Remember what codes mention. Idempotent; safe from many processes at once."""
    hashes = sorted(codes)
    names = [msgspec.json.encode(sorted(codes[hash])).decode() for hash in hashes]
    await connection.execute(*_SQL.register.bind(hashes=hashes, names=names))


async def find(connection: Queryable, *, hash: str) -> frozenset[str] | None:
    """The names that a code mentioned, or None when it was never registered."""
    row = await connection.fetch_one(*_SQL.find.bind(hash=hash))
    return None if row is None else msgspec.json.decode(row["names"], type=frozenset[str])
