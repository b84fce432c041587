"""Key-value pairs: rows of `chimpbase.kv`.

Each function runs the statement of the same name in `kv.sql`. Expiry is judged by the database's clock at every read.
"""

from __future__ import annotations

from datetime import timedelta

from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "kv.sql")


async def get(connection: Queryable, *, namespace: str, key: str) -> str | None:
    """The value as JSON text, or None when there is none or it has expired."""
    return await connection.fetch_value(*_SQL.get.bind(namespace=namespace, key=key))


async def set(connection: Queryable, *, namespace: str, key: str, value: str, ttl: timedelta | None) -> int:
    """Store a value for `ttl` (None: for ever); its version, which grows with every set."""
    return await connection.fetch_value(*_SQL.set.bind(namespace=namespace, key=key, value=value, ttl=ttl))


async def delete(connection: Queryable, *, namespace: str, key: str) -> bool:
    """Remove a pair; whether there was one that had not expired."""
    return bool(await connection.fetch_value(*_SQL.delete.bind(namespace=namespace, key=key)))


async def sweep(connection: Connection, *, max_rows: int) -> int:
    """Free the space of expired pairs; how many rows went. A full batch suggests more."""
    status = await connection.execute(*_SQL.sweep.bind(max_rows=max_rows))
    return int(status.split()[-1])
