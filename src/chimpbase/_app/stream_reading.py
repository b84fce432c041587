"""Reading on in a stream: what `read`, a live tail and the command line share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from chimpbase._app.entries import Entry, entries_of
from chimpbase._app.tokens import Stream
from chimpbase._core.errors import EntriesDropped
from chimpbase._core.positions import Position, read_position
from chimpbase._pg.db import Db, Queryable
from chimpbase._store import streams

_PAGE = 500
#: A tail is woken by commits here and by the bell; should both be missed, it looks by itself.
_LOOK_S = 1.0


async def read_window(
    connection: Queryable,
    stream: Stream[Any],
    window: Position,
    *,
    shelf: int,
    limit: int,
    partition: tuple[int, int] = (1, 0),
) -> tuple[list[Entry[Any]], Position]:
    """Up to `limit` entries after a position, and the position behind them. `partition`: of how many, which one.

    Raises:
        EntriesDropped: the stream's retention took entries that are not read yet.
    """
    read: list[Entry[Any]] = []
    while True:
        was_open = window.cur is not None
        page = await streams.page(
            connection,
            position=window,
            shelf=shelf,
            max_entries=limit - len(read),
            partitions=partition[0],
            partition=partition[1],
        )
        begun = window.prev is not None or window.cur is not None
        if begun and page.horizon > max(window.floor, window.last):
            raise EntriesDropped(stream.name, horizon=page.horizon)
        read += entries_of(stream, page.entries, window=window, cur=page.cur)
        if len(read) == limit:
            return read, window.at(page.cur, page.entries[-1].id)
        window = window.past(page.cur, page.top)
        if not was_open:
            return read, window


async def follow(
    db: Db,
    stream: Stream[Any],
    *,
    after: str | None,
    since: datetime | None,
    listen: Callable[[], AbstractContextManager[asyncio.Event]],
) -> AsyncGenerator[Entry[Any]]:
    """Every entry as it is committed; `listen` gives an event that is set when something was appended."""
    window: Position | None = None
    with listen() as news:
        while True:
            news.clear()
            async with db.acquire() as connection:
                number, shelf = await _number(connection, stream)
                if window is None:
                    window = await _start(connection, number, shelf, after=after, since=since)
                read, window = await read_window(connection, stream, window, shelf=shelf, limit=_PAGE)
            for entry in read:
                yield entry
            if len(read) < _PAGE:
                await _wait(news)


async def _number(connection: Queryable, stream: Stream[Any]) -> tuple[int, int]:
    found = await streams.find(connection, name=stream.name)
    if found is None:
        # made now, so that what is appended first of all is not missed
        return await streams.declare(connection, name=stream.name, retention=None, max_bytes=None), 0
    return found.id, found.shelf


async def _start(
    connection: Queryable, number: int, shelf: int, *, after: str | None, since: datetime | None
) -> Position:
    if after is not None:
        return read_position(after, stream=number)
    start = Position(stream=number, since=since)
    if since is not None:
        return start
    page = await streams.page_back(connection, position=start, shelf=shelf, max_entries=1)
    return start.past(page.cur, max((one.id for one in page.entries), default=0))


async def _wait(news: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_S):
            await news.wait()
    except TimeoutError:
        return
