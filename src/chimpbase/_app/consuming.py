"""Turns a consumer's definition into what the engine can run: a batch read, handled and passed in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chimpbase._app.backstage import Backstage
from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import Consumer
from chimpbase._app.entries import Entry, entry_at, entry_of
from chimpbase._app.invoke import in_thread
from chimpbase._app.origin import Origin
from chimpbase._core.errors import EntriesDropped, LeaseLost, PayloadError, UsageError
from chimpbase._core.positions import Position
from chimpbase._core.values import StoredEntry
from chimpbase._engine.consumer import Batch, Consuming
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import consumers, streams
from chimpbase._store.consumers import Declared


async def declare_consumers(db: Db, definitions: Sequence[Consumer[Any]]) -> dict[str, Declared]:
    """Make these consumers known to the database; what it knows of each.

    Raises:
        UsageError: a consumer of that name reads another stream.
    """
    declared: dict[str, Declared] = {}
    async with db.acquire() as connection:
        for one in definitions:
            start, since = ("since", one.start) if not isinstance(one.start, str) else (one.start, None)
            found = await consumers.declare(
                connection, name=one.name, stream=one.stream.name, partitions=one.partitions, start=start, since=since
            )
            if found.stream != one.stream.name:
                raise UsageError(
                    f"{one.title} reads stream {one.stream.name!r}, but in this database it reads {found.stream!r}. "
                    "Give the new one a name of its own."
                )
            declared[one.name] = found
    return declared


async def consuming_of(backstage: Backstage, definition: Consumer[Any], declared: Declared) -> Consuming:
    """How this process works a consumer."""
    async with backstage.db.acquire() as connection:
        stream = await streams.find(connection, name=definition.stream.name)
    assert stream is not None  # declaring its consumer has made it

    async def consume(batch: Batch) -> None:
        await _consume(backstage, definition, declared, batch)

    return Consuming(
        id=declared.id,
        stream=stream.id,
        name=definition.name,
        batch=definition.batch,
        lanes=declared.partitions,
        retry=definition.retry,
        stops=definition.poison == "pause",
        timeout=definition.timeout,
        consume=consume,
    )


async def _consume(backstage: Backstage, definition: Consumer[Any], declared: Declared, batch: Batch) -> None:
    origin = Origin(
        title=definition.title,
        name=definition.name,
        cause=f"consumer:{definition.name}",
        new_trace=backstage.new_trace,
    )
    async with backstage.open_unit(definition.title) as unit:
        ctx = Ctx(backstage, unit.root, origin)
        async with unit.root.statement() as connection:
            redriven = await consumers.next_redriven(connection, lease=batch.lease)
            if redriven is None:
                entries, position = await _read(connection, definition, declared, batch)
            else:
                entries, position = _again(definition, redriven, batch), batch.position
        if entries:
            if definition.is_async:
                await definition.function(ctx, entries)
            else:
                await in_thread(backstage, definition.function, ctx, (entries,), {})

        async def move(connection: Connection) -> None:
            if redriven is not None:
                await consumers.revive(connection, lease=batch.lease, entry=redriven.id)
            if not await consumers.move(connection, lease=batch.lease, position=position):
                raise LeaseLost(f"consumer {definition.name!r} no longer holds slot {batch.lease.slot}")

        await unit.commit(move)


def _again(definition: Consumer[Any], redriven: StoredEntry, batch: Batch) -> list[Entry[Any]]:
    """A dead letter alone; the consumer stays where it is."""
    batch.read, batch.first = 1, (redriven, batch.position)
    return [entry_at(definition.stream, redriven, place=batch.position)]


async def _read(
    connection: Any, definition: Consumer[Any], declared: Declared, batch: Batch
) -> tuple[list[Entry[Any]], Position]:
    """The entries of a batch, as many as can be read, and the place behind them."""
    window = batch.position
    page = await streams.page(
        connection,
        position=window,
        shelf=declared.shelf,
        max_entries=batch.limit,
        partitions=declared.partitions,
        partition=batch.lease.slot,
    )
    begun = window.prev is not None or window.cur is not None
    if begun and page.horizon > max(window.floor, window.last):
        raise EntriesDropped(definition.stream.name, horizon=page.horizon)
    entries: list[Entry[Any]] = []
    for stored in page.entries:
        batch.first = batch.first or (stored, window.at(page.cur, stored.id))
        try:
            entries.append(entry_of(definition.stream, stored, window=window, cur=page.cur))
        except PayloadError:
            if not entries:
                batch.read = 1
                raise
            # those before it first; then it stands alone
            break
    batch.read = len(entries)
    if len(entries) < len(page.entries) or len(page.entries) == batch.limit:
        return entries, window.at(page.cur, entries[-1].id)
    return entries, window.past(page.cur, page.top)
