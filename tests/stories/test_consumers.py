"""Consumers: every entry takes effect once, each key in its order, whatever happens to batches and processes."""

from __future__ import annotations

import asyncio
import gc
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest

from chimpbase import App, Ctx, Entry, Retry, Stream, SyncCtx
from chimpbase.errors import NotFound, PayloadError, UsageError
from chimpbase.testing import rehearse
from tests.running import Start, notes
from tests.stories.fleet import Fleet, fleet_of
from tests.waiting import until

pytestmark = pytest.mark.anyio

audit = Stream("audit", int)
AT_ONCE = Retry(max_attempts=3, first=timedelta(0))


def reader(*, batch: int = 10, bad: tuple[int, ...] = (), **options: Any) -> App:
    app = App("reader", register=[audit])

    @app.consumer(audit, name="keeper", batch=batch, retry=AT_ONCE, **options)
    async def keep(ctx: Ctx, entries: list[Entry[int]]) -> None:
        for entry in entries:
            await ctx.db.execute("insert into ledger values ($1, $2)", entry.key or "", str(entry.payload))
            if entry.payload in bad:
                raise ValueError(f"no {entry.payload}")

    return app


async def test_each_entry_takes_effect_once_and_in_order(start: Start, outside: asyncpg.Connection) -> None:
    app = reader()
    async with start(app):
        await app.ctx.stream.append_many(audit, range(35))
        await until(lambda: has(outside, 35))
        assert await app.ctx.stream.lag("keeper") == 0
        await app.ctx.stream.append(audit, 35)
        await outside.execute("select chimpbase.append('audit', '36')")
        await until(lambda: has(outside, 37))
    async with start(reader()):  # it goes on where it was
        await outside.execute("select chimpbase.append('audit', '37')")
        await until(lambda: has(outside, 38))
    assert await notes(outside) == [str(n) for n in range(38)]


async def test_partitions_keep_the_order_of_each_key_in_two_processes(
    start: Start, outside: asyncpg.Connection
) -> None:
    apps = [reader(batch=7, partitions=4), reader(batch=7, partitions=4)]
    async with start(apps[0]), start(apps[1]):
        for n in range(0, 400, 40):
            await apps[0].ctx.stream.append_many(audit, range(n, n + 40), key=lambda n: f"k{n % 9}")
        await until(lambda: has(outside, 400))
    rows = await outside.fetch("select who, note from ledger order by at")
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    for key, note in rows:
        by_key[key].append(int(note))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sorted(n for numbers in by_key.values() for n in numbers) == list(range(400))


async def test_an_entry_that_cannot_be_handled_becomes_a_dead_letter_and_no_other_is_touched(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = reader(bad=(3, 17))
    async with start(app):
        await app.ctx.stream.append_many(audit, range(30))
        await until(lambda: has(outside, 28))
        dead = await outside.fetch("select payload, error from chimpbase.consumer_dead order by entry")
    assert [row[0] for row in dead] == ["3", "17"]
    assert "no 3" in dead[0][1]
    assert await notes(outside) == [str(n) for n in range(30) if n not in {3, 17}]


@pytest.mark.parametrize("partitions", [1, 3])
async def test_dead_letters_are_handled_once_more_when_they_are_redriven(
    start: Start, outside: asyncpg.Connection, partitions: int
) -> None:
    async with start(app := reader(bad=(3, 17, 21), partitions=partitions)):
        await app.ctx.stream.append_many(audit, range(30), key=str)
        await until(lambda: has(outside, 27))
        await until(lambda: _count(app, 3))
        dead = await app.ctx.stream.dead("keeper")
        assert [one["payload"] for one in dead] == ["3", "17", "21"]
        assert await app.ctx.stream.redrive("keeper", entries=[cast("int", dead[0]["entry"])]) == 1
        await until(lambda: _is_dead_again(app))  # its handler is as bad as before
        assert await _count(app, 3)
    async with start(app := reader(bad=(21,), partitions=partitions)):
        await app.ctx.stream.append(audit, 30, key="30")
        assert await app.ctx.stream.redrive("keeper") == 3
        await until(lambda: has(outside, 30))
        await until(lambda: _is_dead_again(app))
        assert await _count(app, 1)
        assert await app.ctx.stream.purge("keeper") == 1
        with pytest.raises(NotFound):
            await app.ctx.stream.redrive("nobody")
    assert sorted(map(int, await notes(outside))) == [n for n in range(31) if n != 21]


async def _count(app: App, dead: int) -> bool:
    return len(await app.ctx.stream.dead("keeper")) == dead


async def _is_dead_again(app: App) -> bool:
    return all(one["redriven_at"] is None for one in await app.ctx.stream.dead("keeper"))


async def test_an_entry_can_stop_its_consumer_instead_until_it_is_resumed(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = reader(bad=(3,), poison="pause")
    async with start(app):
        await app.ctx.stream.append_many(audit, range(5))
        await until(lambda: outside.fetchval("select blocked_at from chimpbase.consumer_slot"))
        assert await notes(outside) == ["0", "1", "2"]
        assert await app.ctx.stream.lag("keeper") == 2
    app = reader()
    async with start(app):
        await app.ctx.stream.resume("keeper")
        await until(lambda: has(outside, 5))


async def test_the_end_of_a_batch_that_cannot_be_written_is_logged_and_tried_again(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    app = reader(bad=(3,))
    async with start(app):
        await outside.execute("alter table chimpbase.consumer_dead add constraint picky check (payload <> '3')")
        await app.ctx.stream.append_many(audit, range(5))
        await until(lambda: "keeper/0: CheckViolation" in caplog.text)
        # it is not run again as fast as it fails
        await until(lambda: outside.fetchval("select retry_at > clock_timestamp() from chimpbase.consumer_slot"))
        assert await notes(outside) == ["0", "1", "2"]
        await outside.execute("alter table chimpbase.consumer_dead drop constraint picky")
        await until(lambda: has(outside, 4))
        assert await _count(app, 1)
    gc.collect()
    assert complaints == []
    assert "Failing row" not in caplog.text


async def test_an_entry_of_another_type_is_a_dead_letter(start: Start, outside: asyncpg.Connection) -> None:
    app = reader()
    async with start(app):
        for payload in ("1", '"two"', "3"):
            await outside.execute("select chimpbase.append('audit', $1::text::jsonb)", payload)
        await until(lambda: has(outside, 2))
        await until(lambda: outside.fetchval("select count(*) = 1 from chimpbase.consumer_dead"))
    assert await notes(outside) == ["1", "3"]


async def test_a_consumer_is_rewound_paused_and_begins_where_it_is_told(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = reader(start="now")
    async with start(app):
        pass
    async with start(App("writer", register=[audit])) as runtime:
        await runtime.ctx.stream.append_many(audit, range(3))
        middle = (await runtime.ctx.stream.read(audit, limit=1))[0].position
        other = await runtime.ctx.stream.append("other", 1)
        assert other > 0
        foreign = (await runtime.ctx.stream.read("other"))[0].position
    async with start(app):
        await until(lambda: has(outside, 3))
        await app.ctx.stream.rewind("keeper")
        await until(lambda: has(outside, 6))
        await app.ctx.stream.rewind("keeper", to=middle)
        await until(lambda: has(outside, 8))
        await app.ctx.stream.pause("keeper")
        await app.ctx.stream.append(audit, 3)
        await app.ctx.stream.rewind("keeper", to="now")
        await app.ctx.stream.resume("keeper")
        await app.ctx.stream.append(audit, 4)
        await until(lambda: has(outside, 9))
        assert (await notes(outside))[-1] == "4"
        for wrong, error in (("nobody", NotFound), ("a b", UsageError)):
            with pytest.raises(error):
                await app.ctx.stream.rewind(wrong)
        for place, refused in ((foreign, PayloadError), ("yesterday", PayloadError), (7, UsageError)):
            with pytest.raises(refused):
                await app.ctx.stream.rewind("keeper", to=place)  # type: ignore[arg-type]


async def test_a_consumer_may_be_a_plain_function_and_append_to_its_own_stream(start: Start) -> None:
    app = App("echo", register=[audit])

    @app.consumer("audit", batch=2)
    def echo(ctx: SyncCtx, entries: list[Entry[int]]) -> None:
        for entry in entries:
            if entry.payload < 5:
                ctx.stream.append(audit, entry.payload + 1)

    async with start(app):
        await app.ctx.stream.append(audit, 0)
        await until(lambda: count(app, 6))
        assert [entry.payload for entry in await app.ctx.stream.read(audit)] == list(range(6))


async def test_a_rehearsal_drains_consumers_too() -> None:
    app = App("test", register=[audit])
    seen: list[int] = []

    @app.consumer(audit)
    async def see(ctx: Ctx, entries: list[Entry[int]]) -> None:
        seen.extend(entry.payload for entry in entries)

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.stream.append_many(audit, [1, 2])
        assert seen == []
        await t.drain()
        assert seen == [1, 2]


@pytest.fixture
async def fleet(dsn: str, tmp_path: Path, outside: asyncpg.Connection) -> AsyncIterator[Fleet]:
    async with fleet_of("tests.stories.apps.consumers", dsn, tmp_path) as fleet:
        yield fleet


@pytest.mark.parametrize(("where", "after"), [("app", n) for n in range(1, 7)] + [("engine", n) for n in range(1, 3)])
async def test_a_consumer_killed_at_any_statement_has_each_effect_once(
    fleet: Fleet, outside: asyncpg.Connection, where: str, after: int
) -> None:
    victim = await fleet.start(die_in=where, die_after=after)
    for n in range(6):
        await outside.execute("select chimpbase.append('audit', $1::text::jsonb)", str(n))
    await until(lambda: not victim.alive)
    await fleet.start()
    await until(lambda: has(outside, 6))
    assert sorted(await notes(outside)) == [str(n) for n in range(6)]


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"batch": True}, {"partitions": 2000}, {"start": "later"}, {"poison": "skip"}, {"timeout": -1}],
)
def test_a_consumer_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        reader(**wrong)


async def has(outside: asyncpg.Connection, n: int) -> bool:
    return len(await notes(outside)) >= n


async def count(app: App, n: int) -> bool:
    return len(await app.ctx.stream.read(audit)) >= n
