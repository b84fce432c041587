"""The indexes of collections: made when an app starts, one maker at a time, while everybody else reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

from chimpbase._app.collection_token import Collection, Index, Search, index_name
from chimpbase._app.kv_lock import Holding
from chimpbase._core.errors import NotUnique, UniqueViolation
from chimpbase._pg.db import Db, Queryable
from chimpbase._store import document_indexes
from chimpbase._store.document_indexes import IndexRow


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """An index: its name in the database, what it is over, and how it stands.

    `declared` is whether the code still declares it, `ready` whether queries use it: a missing one, or one whose making
    was interrupted, is made at the next start.
    """

    name: str
    fields: tuple[str, ...]
    unique: bool
    search: bool
    declared: bool
    ready: bool


async def states(connection: Queryable, token: Collection[Any]) -> list[IndexState]:
    """Every index that a collection has or should have."""
    rows = {row.name: row for row in await document_indexes.list_indexes(connection, collection=token.name)}
    wanted = {index_name(token.name, one): one for one in token.declared()}
    missing = [
        IndexRow(name=name, spec=json.dumps(one.spec()), valid=False, present=False)
        for name, one in wanted.items()
        if name not in rows
    ]
    return [_state(row, declared=row.name in wanted) for row in [*rows.values(), *missing]]


async def create_indexes(db: Db, token: Collection[Any]) -> list[str]:
    """Make what is declared and missing; the names of those made.

    Raises:
        NotUnique: documents that are there have the same unique fields.
    """
    if not await _missing(db, token):
        return []
    holding = Holding(
        db,
        namespace="(lock)",
        name=f"indexes of {token.name}",
        ttl=timedelta(seconds=15),
        wait=None,
        random=Random(),
    )
    await holding.take()
    try:
        made: list[str] = []
        for index in await _missing(db, token):
            await _create(db, token, index)
            made.append(index_name(token.name, index))
        return made
    finally:
        await holding.let_go()


async def create_all(db: Db, collections: Iterable[Collection[Any]]) -> None:
    """As `create_indexes`, for each of them."""
    for token in collections:
        await create_indexes(db, token)


async def drop_index(db: Db, *, collection: str, name: str) -> bool:
    """Drop an index by its name; whether there was one."""
    async with db.acquire() as connection:
        rows = await document_indexes.list_indexes(connection, collection=collection)
        if name not in {row.name for row in rows}:
            return False
        await document_indexes.build(connection, await document_indexes.spell_drop(connection, name=name))
        return await document_indexes.forget_index(connection, name=name, collection=collection)


async def _missing(db: Db, token: Collection[Any]) -> list[Index | Search]:
    declared = token.declared()
    if not declared:
        return []
    async with db.acquire() as connection:
        rows = await document_indexes.list_indexes(connection, collection=token.name)
    ready = {row.name for row in rows if row.valid}
    return [one for one in declared if index_name(token.name, one) not in ready]


async def _create(db: Db, token: Collection[Any], index: Index | Search) -> None:
    name = index_name(token.name, index)
    async with db.acquire() as connection:
        drop = await document_indexes.spell_drop(connection, name=name)
        # what an interrupted making left behind is there, but never becomes valid
        await document_indexes.build(connection, drop)
        if isinstance(index, Search):
            create = await document_indexes.spell_search(
                connection, name=name, collection=token.name, paths=index.paths, language=index.language
            )
        else:
            create = await document_indexes.spell_index(
                connection, name=name, collection=token.name, paths=index.paths, unique=index.unique
            )
        try:
            await document_indexes.build(connection, create)
        except UniqueViolation as error:
            await document_indexes.build(connection, drop)
            raise NotUnique(token.name, f"the same {', '.join(_fields(index.spec()))}") from error
        await document_indexes.note_index(connection, name=name, collection=token.name, spec=json.dumps(index.spec()))


def _state(row: IndexRow, *, declared: bool) -> IndexState:
    spec = json.loads(row.spec)
    return IndexState(
        name=row.name,
        fields=_fields(spec),
        unique=bool(spec.get("unique")),
        search="search" in spec,
        declared=declared,
        ready=row.valid,
    )


def _fields(spec: dict[str, Any]) -> tuple[str, ...]:
    return tuple(".".join(path) for path in spec.get("fields") or spec["search"])
