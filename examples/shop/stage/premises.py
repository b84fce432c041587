"""The premises of the demo: a database that holds nothing else, and the shop as a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import httpx2

SHOP = Path(__file__).resolve().parents[1]
START_S = 60.0
STOP_S = 15.0

#: Variables of libpq that would choose another server than the demo's own.
LIBPQ_PLACES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")


class Trouble(Exception):
    """The demo cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Database:
    """Where the shop keeps everything: a title for the story, and the settings that choose it."""

    title: str
    settings: dict[str, str]


@asynccontextmanager
async def fresh_database(directory: Path) -> AsyncGenerator[Database]:
    """A new embedded PostgreSQL in `directory`; with DATABASE_URL a new database on that server, dropped afterwards."""
    url = os.environ.pop("CHIMPBASE_DATABASE_URL", "") or os.environ.pop("DATABASE_URL", "")
    if not url:
        for variable in LIBPQ_PLACES:
            os.environ.pop(variable, None)
        yield Database("embedded PostgreSQL", {"data_directory": str(directory / "pg")})
        return
    name = f"chimpbase_demo_{uuid4().hex[:8]}"
    await _administer(url, f"create database {name} template template0")
    try:
        yield Database(
            f"database {name} of the server in DATABASE_URL",
            {"database_url": urlunsplit(urlsplit(url)._replace(path=f"/{name}"))},
        )
    finally:
        await _administer(url, f"drop database if exists {name} with (force)")


@contextmanager
def scratch_directory() -> Generator[Path]:
    """For the log, and for the data of the embedded PostgreSQL; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="chimpbase-demo-"))
    directory.chmod(0o755)  # for root: PostgreSQL then runs as somebody else, who must get through
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class ShopProcess:
    """The shop, started by the command line as in production, with its log in a file."""

    def __init__(self, database: Database, *, log: Path) -> None:
        settings = database.settings | {"log_level": "warning"}
        self._environ = {f"CHIMPBASE_{name.upper()}": value for name, value in settings.items()}
        self._log = log
        self._port = _free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> float:
        """Start it and wait until it says it is ready; the seconds that took."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "chimpbase", "start", "app.py", "--port", str(self._port)),
                cwd=SHOP,
                env=os.environ | self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the shop in order
            )
        async with httpx2.AsyncClient(base_url=self.url, trust_env=False) as client:
            while not await _is_ready(client):
                if self._process.returncode is not None:
                    raise Trouble(
                        f"The shop ended with code {self._process.returncode}. Its last words:\n{self.last_words()}"
                    )
                if time.monotonic() - began > START_S:
                    raise Trouble(f"The shop was not ready after {START_S:g} s. Its last words:\n{self.last_words()}")
                await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def kill(self) -> None:
        """SIGKILL: no warning, no goodbye."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long. Nothing happens when it does not run."""
        if self._process is None or self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(STOP_S):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            await self._end(signal.SIGKILL)

    async def _end(self, sign: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sign)
        await self._process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


async def _is_ready(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx2.TransportError:
        return False


async def _administer(url: str, statement: str) -> None:
    try:
        connection = cast("Any", await asyncpg.connect(url, timeout=10))  # pyright: ignore[reportUnknownMemberType]
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
    except asyncpg.InsufficientPrivilegeError as error:
        raise Trouble(
            f"{error}. The demo makes a database of its own on the server of DATABASE_URL: give that user CREATEDB, or "
            "unset DATABASE_URL to run on the embedded PostgreSQL."
        ) from error
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Trouble(f"DATABASE_URL leads to no database the demo can use: {error}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
