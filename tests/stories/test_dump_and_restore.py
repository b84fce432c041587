"""A database that is dumped and restored into another cluster goes on: nothing is lost, and nothing happens twice.

The dump is a real one, by the `pg_dump` of the server's own programs. The new cluster counts its transactions from the
beginning, so every number of a transaction that the old one gave means something else there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Entry, Event, Occurrence, Queue, Stream, Wf
from chimpbase._core.errors import ConfigError
from chimpbase._pg.binaries import find_binaries
from chimpbase._pg.embedded import EmbeddedServer
from tests.running import Start, is_idle, the_value
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

log, placed, mails = Stream("log", int), Event("placed", int), Queue("mail", int)
PARTITIONS = 3


_MANY_TRANSACTIONS = "do $$ begin for n in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$"


def shop() -> App:
    app = App("shop", register=[log, placed, mails])

    async def note(ctx: Ctx, who: str, what: object) -> None:
        await ctx.db.execute("insert into ledger (who, note) values ($1, $2)", who, str(what))

    @app.consumer(log, name="counter", batch=7, partitions=PARTITIONS)
    async def count(ctx: Ctx, entries: list[Entry[int]]) -> None:
        for entry in entries:
            await note(ctx, "consumer", entry.payload)

    @app.subscribe(placed)
    async def thank(ctx: Ctx, order: int) -> None:
        await note(ctx, "delivery", order)

    @app.worker(mails)
    async def send(ctx: Ctx, mail: int) -> None:
        await note(ctx, "mail", mail)

    @app.cron("@hourly")
    async def report(ctx: Ctx, due: Occurrence) -> None:
        await note(ctx, "cron", due.due_at.isoformat())

    @app.step
    async def charge(ctx: Ctx, order: int) -> int:
        await note(ctx, "step", order)
        return order

    @app.workflow("checkout", version=1)
    async def checkout(wf: Wf, order: int) -> int:
        await charge(wf, order)
        paid = await wf.wait("paid")
        return await charge(wf, order + paid)

    return app


def programs() -> tuple[str, str]:
    """`pg_dump` and `pg_restore` of the newest PostgreSQL at hand."""
    try:
        directory = find_binaries(setting=None, environ=os.environ).directory
    except ConfigError:
        directory = None
    found = [shutil.which(one, path=directory and str(directory)) for one in ("pg_dump", "pg_restore")]
    if directory is None or None in found:
        pytest.skip("the PostgreSQL at hand has no pg_dump and pg_restore")
    return str(found[0]), str(found[1])


async def run(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def entries_after(app: App, place: str | None) -> tuple[list[int], str | None]:
    """What a reader of its own gets from there on, and where it stands then."""
    read: list[int] = []
    while page := await app.ctx.stream.read(log, after=place, limit=13):
        read += [entry.payload for entry in page]
        place = page[-1].position
    return read, place


async def what_was_done(connection: asyncpg.Connection) -> Counter[tuple[str, str]]:
    return Counter((row[0], row[1]) for row in await connection.fetch("select who, note from ledger"))


async def test_a_restored_database_goes_on_where_it_was(
    start: Start, dsn: str, outside: asyncpg.Connection, tmp_path: Path
) -> None:
    dump, restore = programs()
    before = shop()
    await outside.execute(_MANY_TRANSACTIONS)
    async with start(before):
        async with before.transaction() as ctx:
            await ctx.stream.append_many(log, range(50), key=str)
            await ctx.workflow.start("checkout", 7, id="run")
            await ctx.pubsub.publish(placed, 1)
            await ctx.kv.set("key", "value")
            await ctx.cron.schedule("nightly", "0 3 * * *", to=mails, payload=9)
        await until(lambda: _has(outside, consumer=50, delivery=1, step=1), deadline_s=30)
        seen, place = await entries_after(before, None)
        await before.ctx.stream.pause("counter")
        for queue in ("mail", "subscription:thank"):
            await before.ctx.queue.pause(queue)
        async with before.transaction() as ctx:
            await ctx.stream.append_many(log, range(50, 80), key=str)
            await ctx.queue.enqueue(mails, 1)
            await ctx.queue.enqueue(mails, 2, delay=0.01)
            await ctx.pubsub.publish(placed, 2)
            next_at = (await ctx.cron.get("nightly")).next_at
    done_before = await what_was_done(outside)

    file = tmp_path / "shop.dump"
    await run(dump, "--format=custom", f"--file={file}", f"--dbname={dsn}")
    server = await EmbeddedServer.start(tmp_path / "cluster", environ={**os.environ, "CHIMPBASE_POSTGRES_BIN": ""})
    try:
        await run(restore, "--no-owner", "--exit-on-error", f"--dbname={server.dsn}", str(file))
        there = await asyncpg.connect(server.dsn)
        assert await _lives_earlier(there, outside)
        assert await what_was_done(there) == done_before
        await _go_on(tmp_path, server.dsn, there, seen, place, next_at)
        await there.close()
    finally:
        await server.stop()


async def _go_on(
    project: Path, dsn: str, there: asyncpg.Connection, seen: list[int], place: str | None, next_at: Any
) -> None:
    after = shop()
    async with after.running(database_url=dsn, project=project, poll=0.1, grace=1):
        await after.ctx.stream.append_many(log, range(80, 90), key=str)
        await after.ctx.stream.resume("counter")
        for queue in ("mail", "subscription:thank"):
            await after.ctx.queue.resume(queue)
        await after.ctx.workflow.signal("run", "paid", 3)
        await until(lambda: _has(there, consumer=90, delivery=2, step=2, mail=2), deadline_s=30)
        await until(lambda: is_idle(there), deadline_s=30)
        more, _ = await entries_after(after, place)
        assert await after.ctx.kv.get("key") == "value"
        assert (await after.ctx.cron.get("nightly")).next_at == next_at
        assert (await after.ctx.workflow.get("run")).status == "completed"
        assert await after.ctx.stream.lag("counter") == 0
    assert sorted(seen + more) == list(range(90))
    done = await what_was_done(there)
    expected = {("consumer", str(n)) for n in range(90)} | {("delivery", "1"), ("delivery", "2")}
    expected |= {("mail", "1"), ("mail", "2"), ("step", "7"), ("step", "10")}
    assert {one for one in done if one[0] != "cron"} == expected
    assert set(done.values()) == {1}


async def _has(connection: asyncpg.Connection, **wanted: int) -> bool:
    counts = dict(await connection.fetch("select who, count(*) from ledger group by who"))
    return all(counts.get(who, 0) >= count for who, count in wanted.items())


async def _lives_earlier(there: asyncpg.Connection, here: asyncpg.Connection) -> bool:
    """Whether the new cluster's transactions have lower numbers than those of entries that came to it."""
    newest = await the_value(here, "select max(xid)::text::bigint from chimpbase.entry")
    return await the_value(there, "select pg_current_xact_id()::text::bigint") < newest
