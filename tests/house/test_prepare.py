"""Prepare: every statement of every shelf is valid SQL on the schema that the migrations make."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import asyncpg
import pytest

from chimpbase._pg.db import Db
from chimpbase._pg.statements import load
from chimpbase._schema.migrate import migrate
from chimpbase._schema.source import own_source
from tests.house.checkout import STORE, files

SHELVES = [path.name for path in files() if path.parent == STORE and path.suffix == ".sql"]


@pytest.mark.anyio
async def test_every_statement_prepares_on_the_migrated_schema(dsn: str) -> None:
    db = await Db.open(dsn, application_name="test", size=1)
    await migrate(db, source=own_source(), random=Random())
    await db.close(grace=timedelta(0))
    connection = await asyncpg.connect(dsn)
    refused: list[str] = []
    for shelf in SHELVES:
        statements = load("chimpbase._store", shelf)
        for name in statements:
            try:
                await connection.prepare(statements[name].sql)
            except asyncpg.PostgresError as error:
                refused.append(f"{shelf} {name}: {error}")
    await connection.close()
    assert refused == []
