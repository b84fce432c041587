"""A project directory for tests of the embedded server, and a question to its server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chimpbase._pg.embedded import EmbeddedServer


@contextmanager
def project_directory(patch: pytest.MonkeyPatch | None = None) -> Generator[Path]:
    """A directory every account can enter, unlike pytest's own; with `patch` sockets go there too."""
    directory = Path(tempfile.mkdtemp(prefix="chimpbase-test-")).resolve()
    directory.chmod(0o755)
    if patch:
        patch.setenv("TMPDIR", str(directory))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


async def ask(server: EmbeddedServer | str, statement: str) -> Any:
    """The one value of a statement run on a connection of its own."""
    connection = await asyncpg.connect(server if isinstance(server, str) else server.dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def sockets_of(server: EmbeddedServer) -> Path:
    return Path(server.dsn.partition("host=")[2].partition("&")[0])
