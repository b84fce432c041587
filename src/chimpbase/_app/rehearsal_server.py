"""The server under rehearsals: one for the process, and fresh databases of it, copied from one that is migrated.

A copy can take a while, so the next one is made while a test uses its own, and dropped ones are waited for by nobody.

A test's event loop ends with the test, so the server lives on a loop of its own in a thread. With
CHIMPBASE_TEST_DATABASE_URL it is a server of the user's, on which only databases made here are touched.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

from chimpbase._app.config import read_settings
from chimpbase._app.schema import bring_up_to_date
from chimpbase._core.settings import Settings
from chimpbase._pg.databases import create_database, drop_database, in_database
from chimpbase._pg.db import Db
from chimpbase._pg.embedded import EmbeddedServer

T = TypeVar("T")
VARIABLE = "CHIMPBASE_TEST_DATABASE_URL"

# Nothing here outlives the process, so nothing needs to survive a crash.
_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "max_connections": "100",
    "max_wal_size": "128MB",
}
#: A copy of a database is a thousand small files: made in memory within 10 ms, on a disk within 100 to 300.
_MEMORY = Path("/dev/shm")  # noqa: S108
_ROOM_BYTES = 1 << 30
_NO_MIGRATIONS = Path()


class RehearsalServer:
    """A server that is started when the first database is asked for. May be used from any thread and loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._lock = asyncio.Lock()
        self._embedded: EmbeddedServer | None = None
        self._url = ""
        self._db: Db | None = None
        self._directory: Path | None = None
        self._templates: dict[Path, str] = {}
        self._spares: dict[str, asyncio.Task[str]] = {}
        self._drops: set[asyncio.Task[None]] = set()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something on the server's own loop."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, name="chimpbase-rehearsals", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def make(self, *, project: Path | None) -> str:
        """A new database with the runtime's tables and the project's; its URL. To be submitted.

        Raises:
            SchemaError: a migration of the project failed.
        """
        async with self._lock:
            db = await self._housekeeper()
            template = await self._template(db, project)
            spare = self._spares.pop(template, None) or asyncio.create_task(_copy(db, template))
            name = await spare
            self._spares[template] = asyncio.create_task(_copy(db, template))
        return in_database(self._url, name)

    async def drop(self, url: str) -> None:
        """Begin to drop a database that `make` made, with whoever is connected to it. To be submitted."""
        db = await self._housekeeper()
        task = asyncio.create_task(drop_database(db, url.partition("?")[0].rpartition("/")[2]))
        self._drops.add(task)
        task.add_done_callback(self._drops.discard)

    def close(self) -> None:
        """Drop what is left and stop the server, if it is ours. Idempotent; it can be used again afterwards."""
        if self._thread is None:
            return
        self.submit(self._close()).result(timeout=60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._thread = None

    async def _close(self) -> None:
        if self._db is not None:
            spares = await asyncio.gather(*self._spares.values(), return_exceptions=True)
            await asyncio.gather(*self._drops, return_exceptions=True)
            for name in [*self._templates.values(), *(spare for spare in spares if isinstance(spare, str))]:
                if self._embedded is None:
                    await drop_database(self._db, name)
            await self._db.close(grace=timedelta(0))
        if self._embedded is not None:
            data = self._embedded.data_directory
            await self._embedded.stop()
            # for root the data lies elsewhere, in a directory made for it alone
            shutil.rmtree(data if data.parent == self._directory else data.parent, ignore_errors=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._db, self._embedded, self._directory = None, None, None
        self._templates.clear()
        self._spares.clear()

    async def _housekeeper(self) -> Db:
        if self._db is None:
            self._url = os.environ.get(VARIABLE, "")
            if not self._url:
                self._directory = _scratch_directory()
                self._embedded = await EmbeddedServer.start(self._directory / "pg", settings=_FAST)
                self._url = self._embedded.dsn
            self._db = await _open(self._url)
        return self._db

    async def _template(self, db: Db, project: Path | None) -> str:
        settings = read_settings({}, environ={}, project=project) if project else Settings()
        directory = (project / settings.migrations).resolve() if project else _NO_MIGRATIONS
        if directory not in self._templates:
            name = f"rehearsal_template_{uuid4().hex[:12]}"
            await create_database(db, name, template="template0")
            own = await _open(in_database(self._url, name))
            try:
                await bring_up_to_date(
                    own, project=project or _nowhere(), settings=settings, random=Random(), apply=True
                )
            except BaseException:
                await own.close(grace=timedelta(0))
                await drop_database(db, name)
                raise
            await own.close(grace=timedelta(0))
            self._templates[directory] = name
        return self._templates[directory]


@cache
def this_process() -> RehearsalServer:
    """The server that all rehearsals of this process share, for a start takes half a second. Closed at exit."""
    server = RehearsalServer()
    atexit.register(server.close)
    return server


@asynccontextmanager
async def fresh_database(*, project: Path | None) -> AsyncGenerator[str]:
    """A database for the length of a block; its URL."""
    server = this_process()
    url = await asyncio.wrap_future(server.submit(server.make(project=project)))
    try:
        yield url
    finally:
        await asyncio.shield(asyncio.wrap_future(server.submit(server.drop(url))))


async def _copy(db: Db, template: str) -> str:
    name = f"rehearsal_{uuid4().hex[:16]}"
    await create_database(db, name, template=template)
    return name


async def _open(url: str) -> Db:
    return await Db.open(url, size=1, application_name="chimpbase rehearsals", budget=timedelta(seconds=50))


def _scratch_directory() -> Path:
    """A new directory: in memory if there is room and nobody wants it elsewhere, else where temporary files go."""
    memory = None
    if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        memory = _MEMORY
    directory = Path(tempfile.mkdtemp(prefix="chimpbase-", dir=memory)).resolve()
    directory.chmod(0o711)  # started by root, the server runs as another account, which must come through
    return directory


def _nowhere() -> Path:
    """A project without migrations."""
    return Path(os.devnull)
