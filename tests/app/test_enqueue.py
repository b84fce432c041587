"""Enqueueing one, many, and outside any transaction."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue
from chimpbase.errors import PayloadError
from tests.running import Start, history
from tests.waiting import until

pytestmark = pytest.mark.anyio

numbers = Queue("numbers", int)


def counting(name: str) -> tuple[App, list[int]]:
    app, seen = App(name), list[int]()

    @app.worker(numbers)
    async def count(ctx: Ctx, number: int) -> None:
        seen.append(number)

    return app, seen


async def test_what_is_enqueued_outside_a_transaction_is_there_when_the_call_returns(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, _ = counting("alone")
    async with start(app, workers=False):
        id = await app.ctx.queue.enqueue(numbers, 7)
        assert await outside.fetchval("select payload from chimpbase.job where id = $1", id) == "7"


async def test_many_callers_share_commits_and_each_gets_its_own_id(start: Start, outside: asyncpg.Connection) -> None:
    app, seen = counting("together")
    async with start(app):
        ids = await asyncio.gather(*(app.ctx.queue.enqueue(numbers, number) for number in range(500)))
        await until(lambda: len(seen) == 500)
    assert sorted(seen) == list(range(500))
    done = {row["id"]: row["payload"] for row in await history(outside, "job_done")}
    assert done == {id: str(number) for number, id in enumerate(ids)}


async def test_many_jobs_in_one_call_keep_their_order(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = counting("many")
    async with start(app, workers=False):
        async with app.transaction() as ctx:
            ids = await ctx.queue.enqueue_many(numbers, range(20_000), priority=3)
            assert await ctx.queue.enqueue_many(numbers, []) == []
        rows = await outside.fetch("select id, payload, priority from chimpbase.job order by sort")
    assert [(row["id"], row["payload"], row["priority"]) for row in rows] == [
        (id, str(number), 3) for number, id in enumerate(ids)
    ]


async def test_one_bad_payload_among_many_stores_none(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = counting("bad")
    async with start(app, workers=False):
        with pytest.raises(PayloadError, match="payload 2"):
            await app.ctx.queue.enqueue_many(numbers, [1, 2, "three"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert await outside.fetchval("select count(*) from chimpbase.job") == 0


async def test_more_jobs_than_slots_drain_without_the_poll(start: Start) -> None:
    app, seen = counting("drain")
    async with start(app, poll=60.0):
        await app.ctx.queue.enqueue_many(numbers, range(3000))
        await until(lambda: len(seen) == 3000)
    assert sorted(seen) == list(range(3000))


async def test_a_key_is_stored_with_its_job(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = counting("keys")
    async with start(app, workers=False):
        id = await app.ctx.queue.enqueue(numbers, 1, key="acme")
        late = await app.ctx.queue.enqueue(numbers, 2, key="acme", delay=60)
        (raw,) = await outside.fetchrow("""select chimpbase.enqueue('numbers', '3', '{"key": "acme"}')""") or [None]
        for key in ("", "x" * 513, "a\0b", "\ud800", 7):
            with pytest.raises(PayloadError):
                await app.ctx.queue.enqueue(numbers, 4, key=key)  # type: ignore[arg-type]
        with pytest.raises(asyncpg.PostgresError, match="key must be"):
            await outside.execute("""select chimpbase.enqueue('numbers', '3', '{"key": ""}')""")
    assert await outside.fetch("select id, key from chimpbase.job order by id") == [(id, "acme"), (raw, "acme")]
    assert await outside.fetch("select id, key from chimpbase.job_later") == [(late, "acme")]


async def test_jobs_of_a_queue_with_a_gate_wait_behind_it(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = counting("gated")
    async with start(app, workers=False):
        await outside.execute(
            "insert into chimpbase.gate (queue) select id from chimpbase.queue where name = 'numbers'"
        )
        ids = await app.ctx.queue.enqueue_many(numbers, range(3), key="acme", priority=2)
        ids.append(await app.ctx.queue.enqueue(numbers, 3))
        await app.ctx.queue.enqueue(numbers, 4, delay=60)
    assert await outside.fetchval("select count(*) from chimpbase.job") == 0
    waiting = await outside.fetch("select id, key, priority, payload from chimpbase.job_wait order by id")
    assert waiting == [(id, "acme" if n < 3 else "", 2 if n < 3 else 0, str(n)) for n, id in enumerate(ids)]
    assert sorted(row[0] for row in await outside.fetch("select key from chimpbase.key_news")) == ["", "acme"]
