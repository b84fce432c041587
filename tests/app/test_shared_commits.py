"""Shared commits: what many callers publish or append at one moment, outside of any transaction."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Stream
from chimpbase.errors import UniqueViolation
from tests.running import Start, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

MANY = 300
told = Event("told", int)
log = Stream("log", int)
other = Stream("log.other", int)


async def test_what_many_publish_at_once_shares_commits_and_reaches_every_subscription_once(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shared")
    heard: dict[str, list[int]] = {"a": [], "b": []}

    @app.subscribe(told, name="a")
    async def a(ctx: Ctx, number: int) -> None:
        heard["a"].append(number)

    @app.subscribe(told, name="b")
    async def b(ctx: Ctx, number: int) -> None:
        heard["b"].append(number)

    async with start(app):
        ids = await asyncio.gather(*(app.ctx.pubsub.publish(told, number) for number in range(MANY)))
        await until(lambda: len(heard["a"]) >= MANY and len(heard["b"]) >= MANY)
    assert sorted(heard["a"]) == sorted(heard["b"]) == list(range(MANY))
    stored = await outside.fetch("select id, payload::int from chimpbase.event order by id")
    assert [tuple(row) for row in stored] == list(zip(ids, range(MANY), strict=True))
    assert await the_value(outside, "select count(distinct xmin::text) from chimpbase.event") <= 3


async def test_what_many_append_at_once_shares_commits_and_each_stream_keeps_its_order(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shared", register=[log, other])
    async with start(app, workers=False):
        # a stream with versions is locked by whoever appends to it
        await app.ctx.stream.append(other, -1, expected_version=0)
        ids = await asyncio.gather(
            *(app.ctx.stream.append((log, other)[number % 2], number, key=f"k{number % 7}") for number in range(MANY))
        )
        read = {name: await app.ctx.stream.read(name, limit=MANY) for name in (log.name, other.name)}
        assert await app.ctx.stream.version(other) == MANY // 2 + 1
    assert [entry.payload for entry in read[log.name]] == list(range(0, MANY, 2))
    assert [entry.payload for entry in read[other.name]] == [-1, *range(1, MANY, 2)]
    assert {entry.id: entry.payload for entry in read[log.name]} == dict(zip(ids[::2], range(0, MANY, 2), strict=True))
    assert [entry.key for entry in read[log.name]] == [f"k{number % 7}" for number in range(0, MANY, 2)]
    assert await the_value(outside, "select count(distinct xid) from chimpbase.entry") <= 4


async def test_what_the_database_refuses_is_refused_to_its_caller_alone(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shared", register=[told, log])
    async with start(app, workers=False):
        await outside.execute("create unique index on chimpbase.event (payload)")
        publish = app.ctx.pubsub.publish
        numbers = [1, 2, 3, 2, 4]
        answers = await asyncio.gather(*(publish(told, number) for number in numbers), return_exceptions=True)
    refused = [number for number, answer in zip(numbers, answers, strict=True) if isinstance(answer, UniqueViolation)]
    assert refused == [2]
    assert [row[0] for row in await outside.fetch("select payload from chimpbase.event order by payload")] == list(
        "1234"
    )


async def test_a_long_payload_travels_alone_and_is_stored_as_well(start: Start) -> None:
    texts = Stream("texts", str)
    app = App("shared", register=[texts])
    async with start(app, workers=False):
        given = ["x" * 40_000, "short", "y" * 40_000]
        await asyncio.gather(*(app.ctx.stream.append(texts, text) for text in given))
        assert sorted(entry.payload for entry in await app.ctx.stream.read(texts)) == sorted(given)
