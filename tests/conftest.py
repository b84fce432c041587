"""The real PostgreSQL under the whole suite, and a fresh database of it for each test that wants one.

CHIMPBASE_TEST_DATABASE_URL names a server whose user may create databases; without it each test process starts an
embedded one. What lives longer than a test runs in a thread with an event loop of its own, because a test's loop ends
with the test.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import hypothesis
import pytest

from chimpbase._pg.embedded import EmbeddedServer

_T = TypeVar("_T")

# Nothing here outlives the run, so nothing needs to survive a crash.
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "300"}


# how fast a machine is, is not what a property is about
hypothesis.settings.register_profile("house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("house")


class _Caretaker:
    """A thread with an event loop, for what outlives a test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="caretaker", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=50)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="session")
def caretaker() -> Iterator[_Caretaker]:
    caretaker = _Caretaker()
    yield caretaker
    caretaker.close()


@pytest.fixture(scope="session")
def server_dsn(caretaker: _Caretaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the whole run; its database is for making others, and holds nothing."""
    if given := os.environ.get("CHIMPBASE_TEST_DATABASE_URL"):
        yield given
        return
    directory: Path = tmp_path_factory.mktemp("postgres") / "data"
    server = caretaker.run(EmbeddedServer.start(directory, settings=_FAST))
    yield server.dsn
    caretaker.run(server.stop())


@pytest.fixture(scope="session")
def housekeeper(caretaker: _Caretaker, server_dsn: str) -> Iterator[asyncpg.Connection]:
    """A connection for making and dropping databases; it belongs to the caretaker's loop."""
    connection = caretaker.run(asyncpg.connect(server_dsn))
    yield connection
    caretaker.run(connection.close())


@pytest.fixture
def dsn(caretaker: _Caretaker, housekeeper: asyncpg.Connection, server_dsn: str) -> Iterator[str]:
    """A database of its own, empty, dropped after the test with whoever is still connected."""
    name = f"test_{uuid4().hex[:16]}"
    caretaker.run(housekeeper.execute(f"create database {name} template template0"))
    yield urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}"))
    caretaker.run(housekeeper.execute(f"drop database if exists {name} with (force)"))
