"""What runs put out while they run, and how it is followed: a run's entries of a stream, until the run has ended.

Several runs share a stream; the key of an entry is the id of the run that put it out. A reader asks PostgreSQL for the
entries of that key's hash alone, from when the run was started.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager
from hashlib import md5
from typing import Any

from chimpbase._app.entries import Entry
from chimpbase._app.stream_reading import read_window
from chimpbase._app.tokens import Stream
from chimpbase._core.errors import NotFound
from chimpbase._core.positions import Position, read_position
from chimpbase._core.values import RunStatus
from chimpbase._pg.db import Db
from chimpbase._store import streams

_PAGE = 500
#: A reader is woken by appends here and by the bell; the end of a run, and a wake-up that is missed, it finds itself.
_LOOK_S = 0.25
#: As `append_entries` makes a hash of a key: the first 28 bits of its MD5.
_HASHES = 2**28


async def follow_run(
    db: Db,
    stream: Stream[Any],
    *,
    run: str,
    after: str | None,
    status: Callable[[str], Awaitable[RunStatus | None]],
    listen: Callable[[], AbstractContextManager[asyncio.Event]],
) -> AsyncGenerator[Entry[Any]]:
    """The run's entries from its first one, or after a position; ends when the run has ended and all of it was read.

    Raises:
        NotFound: no run with that id.
    """
    part = int(md5(run.encode(), usedforsecurity=False).hexdigest()[:7], 16)
    window: Position | None = None
    with listen() as news:
        while True:
            news.clear()
            known = await status(run)
            if known is None:
                raise NotFound("run", run)
            # asked before the entries are read: what it put out at its end is among them
            ended = known.finished_at is not None or known.state == "blocked"
            read: list[Entry[Any]] = []
            async with db.acquire() as connection:
                found = await streams.find(connection, name=stream.name)
                if found is not None:
                    if window is None:
                        start = Position(stream=found.id, since=known.started_at)
                        window = start if after is None else read_position(after, stream=found.id)
                    read, window = await read_window(
                        connection, stream, window, shelf=found.shelf, limit=_PAGE, partition=(_HASHES, part)
                    )
            for entry in read:
                if entry.key == run:
                    yield entry
            if len(read) < _PAGE:
                if ended:
                    return
                await _wait(news)


async def _wait(news: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_S):
            await news.wait()
    except TimeoutError:
        return
