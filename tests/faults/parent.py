"""A parent of an embedded server: writes row after row until it is killed. Arguments: data directory, first number."""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from pathlib import Path

import asyncpg

from chimpbase._pg.embedded import EmbeddedServer


async def write(data: Path, first: int) -> None:
    server = await EmbeddedServer.start(data)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("create table if not exists written (n int)")
    for n in count(first):
        await connection.execute("insert into written values ($1)", n)
        print(n, flush=True)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
