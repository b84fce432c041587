"""Unique jobs under several at once, and the sweep of their names."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from chimpbase import App, Ctx, Unique
from tests.app.syncs import Held, Sync, app, held, stored, syncs
from tests.running import Start
from tests.waiting import until

__all__ = ["app", "held"]

pytestmark = pytest.mark.anyio


async def test_callers_at_once_get_one_job(app: App, outside: asyncpg.Connection) -> None:
    ids = await asyncio.gather(*(app.ctx.queue.enqueue(syncs, Sync(1), unique="u") for _ in range(20)))
    assert len(set(ids)) == 1
    assert len(await stored(outside)) == 1


async def test_the_second_waits_for_the_first_transaction_and_takes_its_place_when_that_is_taken_back(
    app: App, outside: asyncpg.Connection
) -> None:
    transaction = outside.transaction()
    await transaction.start()
    await outside.fetchval("""select chimpbase.enqueue('syncs', '{"user": 1, "note": "x"}', '{"unique": "u"}')""")
    second = asyncio.ensure_future(app.ctx.queue.enqueue(syncs, Sync(1, "mine"), unique="u"))
    await until(lambda: waits_for_a_lock(app))
    assert not second.done()
    await transaction.rollback()
    id = await second
    assert await stored(outside) == [(id, "mine")]


async def waits_for_a_lock(app: App) -> bool:
    async with app.transaction() as ctx:
        return bool(await ctx.db.fetch("select 1 from pg_locks where not granted"))


async def test_batches_in_opposite_orders_do_not_deadlock(app: App, outside: asyncpg.Connection) -> None:
    forth, back = [Sync(n) for n in range(50)], [Sync(n) for n in reversed(range(50))]
    rule = Unique(fields=("user",))
    answers = await asyncio.gather(
        *(app.ctx.queue.enqueue_many(syncs, batch, unique=rule) for batch in (forth, back) * 5)
    )
    assert len({id for ids in answers for id in ids}) == 50
    assert len(await stored(outside)) == 50


async def test_a_job_that_was_skipped_for_does_not_begin_before_the_commit(start: Start, held: Held) -> None:
    held.go.set()
    rule = Unique(key="u", states=("waiting",))
    async with start(held.app):
        await held.app.ctx.queue.enqueue(syncs, Sync(1), unique=rule, delay=60)
        async with held.app.transaction() as ctx:
            await ctx.db.execute("update chimpbase.job_later set due_at = now() + interval '0.3 s'")
        async with held.app.transaction() as ctx:
            await ctx.queue.enqueue(syncs, Sync(1), unique=rule)
            # others are promoted, claimed and run meanwhile
            await held.app.ctx.queue.enqueue(syncs, Sync(2, "other"), delay=0.5)
            await until(lambda: [job.note for job in held.seen] == ["other"])
        await until(lambda: len(held.seen) == 2)


async def test_skipping_against_claims_loses_nothing(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, rule = App("race"), set[int](), Unique(key="u", states=("waiting",))

    @app.worker("reindex")
    async def reindex(ctx: Ctx, payload: None) -> None:
        row = await ctx.db.fetch_one("select max(n) as n from fact")
        assert row is not None
        seen.add(row["n"])

    await outside.execute("create table fact (n int)")
    async with start(app):
        for n in range(150):
            async with app.transaction() as ctx:
                await ctx.db.execute("insert into fact values ($1)", n)
                await ctx.queue.enqueue("reindex", unique=rule)
        await until(lambda: 149 in seen)


async def test_names_that_say_nothing_more_are_swept(start: Start, held: Held, outside: asyncpg.Connection) -> None:
    held.go.set()
    async with start(held.app, workers=False):
        queue = held.app.ctx.queue
        await queue.enqueue(syncs, Sync(1), unique="waits")
        await queue.enqueue(syncs, Sync(2), unique="ended")
        await queue.enqueue(syncs, Sync(3), idempotency_key="kept")
        await queue.enqueue(syncs, Sync(4), idempotency_key="over")
        await outside.execute("delete from chimpbase.job where payload not like '%1%'")
        await outside.execute("update chimpbase.job_unique set until = now() where name = 'once:over'")
        await outside.execute("update chimpbase.job set process = 0, queue = -1")  # nobody's, so that it stays
    async with start(held.app):
        pass  # the first act is to prune
    names = await outside.fetch("select name from chimpbase.job_unique order by name")
    assert [row["name"] for row in names] == ["key:waits", "once:kept"]
