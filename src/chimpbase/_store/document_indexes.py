"""Indexes of collections: what was declared, in `chimpbase.document_index`, and what PostgreSQL has of it.

Each function runs the statement of the same name in `document_indexes.sql`. Statements that create and drop are spelt
by PostgreSQL itself, which quotes the names in them, and run by `build`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from chimpbase._core.filters import Path
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "document_indexes.sql")
_BUILDING = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    name: str
    spec: str
    valid: bool
    present: bool


async def list_indexes(connection: Queryable, *, collection: str) -> list[IndexRow]:
    """The indexes that were declared for a collection and not dropped."""
    rows = await connection.fetch(*_SQL.list_indexes.bind(collection=collection))
    return [IndexRow(**dict(row)) for row in rows]


async def note_index(connection: Queryable, *, name: str, collection: str, spec: str) -> None:
    """Write down that an index is to exist."""
    await connection.execute(*_SQL.note_index.bind(name=name, collection=collection, spec=spec))


async def forget_index(connection: Queryable, *, name: str, collection: str) -> bool:
    """The opposite; whether it was written down."""
    return bool(await connection.fetch_value(*_SQL.forget_index.bind(name=name, collection=collection)))


async def spell_index(
    connection: Connection, *, name: str, collection: str, paths: Sequence[Path], unique: bool
) -> str:
    """The statement that creates an index; for `build`."""
    return await connection.fetch_value(
        *_SQL.spell_index.bind(
            name=name, collection=collection, paths=msgspec.json.encode(paths).decode(), unique=unique
        )
    )


async def spell_search(
    connection: Connection, *, name: str, collection: str, paths: Sequence[Path], language: str
) -> str:
    """The statement that creates an index over words; for `build`."""
    return await connection.fetch_value(
        *_SQL.spell_search.bind(
            name=name, collection=collection, paths=msgspec.json.encode(paths).decode(), language=language
        )
    )


async def spell_drop(connection: Connection, *, name: str) -> str:
    """The statement that drops an index; for `build`."""
    return await connection.fetch_value(*_SQL.spell_drop.bind(name=name))


async def build(connection: Connection, statement: str) -> None:
    """Run what was spelt, for as long as it takes. Outside of any transaction."""
    await connection.execute("set lock_timeout = 0")  # it waits for every transaction that began before
    with connection.budget(_BUILDING):
        await connection.execute(statement)
