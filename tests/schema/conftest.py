from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from chimpbase._pg.db import Db
from chimpbase._schema.source import MigrationSource, read_source


@pytest.fixture
async def db(anyio_backend: object, dsn: str) -> AsyncIterator[Db]:
    """An empty database."""
    db = await Db.open(dsn, application_name="test", size=4)
    yield db
    await db.close(grace=timedelta(seconds=1))


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., MigrationSource]:
    """`source("create table a ()", "...")` writes these texts as 0001, 0002 ... and reads them as the app's."""
    made = 0

    def write(*texts: str, names: tuple[str, ...] = (), scope: str = "app") -> MigrationSource:
        nonlocal made
        made += 1
        directory = tmp_path / f"source_{made}"
        directory.mkdir()
        for index, text in enumerate(texts):
            name = names[index] if names else "do_something"
            (directory / f"{index + 1:04}_{name}.sql").write_text(text, encoding="utf-8")
        return read_source(directory, scope=scope)

    return write
