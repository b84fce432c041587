from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from chimpbase import App
from tests.app.bind.callers import CALLERS, Caller, calling
from tests.app.bind.shop import shop


@pytest.fixture(scope="session")
def template(caretaker: Any, housekeeper: asyncpg.Connection, server_dsn: str) -> Iterator[str]:
    """A database on which the app has run once."""
    name = f"bind_{uuid4().hex[:16]}"

    async def run_once() -> None:
        async with shop().running(database_url=_at(server_dsn, name), workers=False):
            pass

    caretaker.run(housekeeper.execute(f"create database {name} template template0"))
    caretaker.run(run_once())
    yield name
    caretaker.run(housekeeper.execute(f"drop database {name} with (force)"))


@pytest.fixture
def dsn(caretaker: Any, housekeeper: asyncpg.Connection, server_dsn: str, template: str) -> Iterator[str]:
    """A copy of that database, for one test."""
    name = f"test_{uuid4().hex[:16]}"
    caretaker.run(housekeeper.execute(f"create database {name} template {template}"))
    yield _at(server_dsn, name)
    caretaker.run(housekeeper.execute(f"drop database {name} with (force)"))


def _at(server_dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}"))


@pytest.fixture
def app() -> App:
    """An app that does not run."""
    return shop()


@pytest.fixture(params=CALLERS, ids=lambda kind: kind.__name__)
async def caller(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Caller]:
    async with calling(request.param, dsn) as caller:
        yield caller
