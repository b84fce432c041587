"""A Redis of its own on a loopback port, for the comparisons: Debian's redis-server, when it is installed."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

REDIS = shutil.which("redis-server")
#: What a crash may take: nothing, or up to a second.
ALWAYS, EVERY_SECOND = "always", "everysec"


@asynccontextmanager
async def redis(appendfsync: str) -> AsyncGenerator[str]:
    """Its URL, for as long as the block runs. It appends to a file on the same disk as PostgreSQL's."""
    assert REDIS is not None  # whoever asks has looked
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="chimpbase-bench-redis-") as directory:
        given = {"bind": "127.0.0.1", "port": port, "dir": directory, "appendonly": "yes", "appendfsync": appendfsync}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        # no snapshots beside the appended file
        process = await asyncio.create_subprocess_exec(
            REDIS, *words, "--save", "", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await _answers(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            await process.wait()


async def version() -> str:
    """As in `7.0.15`."""
    assert REDIS is not None  # whoever asks has looked
    process = await asyncio.create_subprocess_exec(REDIS, "--version", stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    return next(word[2:] for word in told.decode().split() if word.startswith("v="))


async def _answers(port: int) -> None:
    for _ in range(500):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.write(b"PING\r\n")
        answer = await reader.readline()
        writer.close()
        if answer.startswith(b"+PONG"):
            return
        await asyncio.sleep(0.02)
    raise RuntimeError("redis-server does not answer")
