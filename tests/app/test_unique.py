"""Unique jobs and idempotency keys: what the second one of the same becomes."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Queue, SyncCtx, Unique
from chimpbase.errors import AlreadyEnqueued, UsageError
from tests.app.syncs import STATES, Held, Sync, app, held, stored, syncs
from tests.running import Start, the_row, the_value
from tests.waiting import until

__all__ = ["app", "held"]

pytestmark = pytest.mark.anyio


async def test_a_second_job_of_a_name_is_the_first(app: App, outside: asyncpg.Connection) -> None:
    first = await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique="user-1")
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique="user-1") == first
    other = await app.ctx.queue.enqueue(syncs, Sync(2, "c"), unique="user-2")
    assert await stored(outside) == [(first, "a"), (other, "c")]


async def test_a_name_belongs_to_a_queue(app: App, outside: asyncpg.Connection) -> None:
    other = Queue("others", Sync)
    first = await app.ctx.queue.enqueue(syncs, Sync(1), unique="u")
    assert await app.ctx.queue.enqueue(other, Sync(1), unique="u") != first


async def test_what_was_rolled_back_takes_no_name(app: App, outside: asyncpg.Connection) -> None:
    with pytest.raises(OSError, match="no"):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(syncs, Sync(1, "a"), unique="u")
            raise OSError("no")
    second = await app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique="u")
    assert await stored(outside) == [(second, "b")]


async def test_a_name_is_free_again_when_its_job_has_ended(start: Start, held: Held) -> None:
    async with start(held.app):
        first = await held.app.ctx.queue.enqueue(syncs, Sync(1), unique="u")
        await until(lambda: held.seen)
        assert await held.app.ctx.queue.enqueue(syncs, Sync(1), unique="u") == first, "it is running"
        held.go.set()
        assert await until(lambda: another(held, first)) != first


async def another(held: Held, first: int) -> int | None:
    id = await held.app.ctx.queue.enqueue(syncs, Sync(1), unique="u")
    return None if id == first else id


async def test_where_only_waiting_counts_a_running_job_gets_a_second(start: Start, held: Held) -> None:
    rule = Unique(key="u", states=("waiting",))
    async with start(held.app):
        first = await held.app.ctx.queue.enqueue(syncs, Sync(1), unique=rule)
        await until(lambda: held.seen)
        second = await held.app.ctx.queue.enqueue(syncs, Sync(1, "again"), unique=rule, delay=60)
        assert second != first
        assert await held.app.ctx.queue.enqueue(syncs, Sync(1), unique=rule) == second
        held.go.set()


async def test_jobs_are_the_same_by_fields_of_their_payload(app: App, outside: asyncpg.Connection) -> None:
    by_user = Unique(fields=("user",))
    first = await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=by_user)
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=by_user) == first
    second = await app.ctx.queue.enqueue(syncs, Sync(2, "a"), unique=by_user)
    assert second != first
    same = await outside.fetchval(
        """select chimpbase.enqueue('syncs', '{ "note":"x",   "user":2}', '{"unique": {"fields": ["user"]}}')"""
    )
    assert same == second


async def test_without_key_and_fields_all_of_the_payload_tells(app: App) -> None:
    first = await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=Unique())
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=Unique()) == first
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=Unique()) != first


async def test_a_key_and_fields_tell_together(app: App) -> None:
    first = await app.ctx.queue.enqueue(syncs, Sync(1), unique=Unique(key="k", fields=("user",)))
    assert await app.ctx.queue.enqueue(syncs, Sync(1), unique=Unique(key="l", fields=("user",))) != first
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "x"), unique=Unique(key="k", fields=("user",))) == first


async def test_a_field_that_is_not_there_is_an_error(app: App, outside: asyncpg.Connection) -> None:
    with pytest.raises(UsageError, match="usr"):
        await app.ctx.queue.enqueue(syncs, Sync(1), unique=Unique(fields=("usr",)))
    with pytest.raises(asyncpg.PostgresError, match="usr"):
        await outside.fetchval(
            """select chimpbase.enqueue('syncs', '{"user": 1}', '{"unique": {"fields": ["usr"]}}')"""
        )


async def test_raising_names_the_job_that_is_there_and_the_transaction_goes_on(
    app: App, outside: asyncpg.Connection
) -> None:
    rule = Unique(key="u", on_conflict="raise")
    first = await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=rule)
    async with app.transaction() as ctx:
        with pytest.raises(AlreadyEnqueued) as refused:
            await ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule)
        last = await ctx.queue.enqueue(syncs, Sync(3, "c"))
    assert refused.value.existing == first
    assert await stored(outside) == [(first, "a"), (last, "c")]


async def test_a_refused_batch_stores_nothing_and_takes_no_name(app: App, outside: asyncpg.Connection) -> None:
    rule = Unique(fields=("user",), period=timedelta(hours=1), states=tuple(STATES), on_conflict="raise")
    first = await app.ctx.queue.enqueue(syncs, Sync(2, "a"), unique=rule)
    async with app.transaction() as ctx:
        with pytest.raises(AlreadyEnqueued):
            await ctx.queue.enqueue_many(syncs, [Sync(1), Sync(2), Sync(3)], unique=rule)
    assert await stored(outside) == [(first, "a")]
    ids = await app.ctx.queue.enqueue_many(syncs, [Sync(1), Sync(3)], unique=rule)
    assert len(await stored(outside)) == 1 + len(ids)


async def test_two_of_one_call_that_are_the_same_are_an_error_where_raising(app: App) -> None:
    with pytest.raises(AlreadyEnqueued, match="Two of these") as refused:
        await app.ctx.queue.enqueue_many(syncs, [Sync(1), Sync(1)], unique=Unique(on_conflict="raise"))
    assert refused.value.existing is None


async def test_replacing_changes_the_job_that_waits(app: App, outside: asyncpg.Connection) -> None:
    rule = Unique(key="u", on_conflict="replace")
    for delay in (None, 60):
        first = await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=rule, delay=delay)
        assert await app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule, priority=5) == first
        assert await stored(outside) == [(first, "b")]
    rows = await outside.fetch("select priority from chimpbase.job union all select priority from chimpbase.job_later")
    assert [row["priority"] for row in rows] == [5]


async def test_a_debounced_job_runs_once_with_the_last_payload_and_its_delay_starts_anew(
    app: App, outside: asyncpg.Connection
) -> None:
    rule = Unique.debounce(fields=["user"])
    first = await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=rule, delay=100)
    due = await the_value(outside, "select due_at from chimpbase.job_later")
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule, delay=100) == first
    assert await the_value(outside, "select due_at from chimpbase.job_later") > due
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "c"), unique=rule) == first, "without a delay it is due now"
    assert await outside.fetchval("select due_at <= now() from chimpbase.job_later where id = $1", first)
    assert await stored(outside) == [(first, "c")]


async def test_a_ready_job_is_put_off_by_a_debounce(app: App, outside: asyncpg.Connection) -> None:
    rule = Unique.debounce(key="k")
    first = await app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=rule)
    assert await app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule, delay=100) == first
    assert await outside.fetchval("select count(*) from chimpbase.job") == 0
    assert await stored(outside) == [(first, "b")]


async def test_a_job_that_runs_is_not_replaced(start: Start, held: Held) -> None:
    rule = Unique(key="u", on_conflict="replace")
    async with start(held.app):
        first = await held.app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=rule)
        await until(lambda: held.seen)
        second = await held.app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule)
        held.go.set()
        await until(lambda: len(held.seen) == 2)
    assert second != first
    assert [job.note for job in held.seen] == ["a", "b"]


async def test_a_replaced_job_has_all_its_attempts_again_and_its_fence_goes_on(
    start: Start, held: Held, outside: asyncpg.Connection
) -> None:
    rule = Unique.debounce(key="u")
    async with start(held.app, workers=False):
        first = await held.app.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=rule, delay=60)
        await outside.execute("update chimpbase.job_later set attempt = 3, uncharged = 1, errors = '[{}]', crashes = 2")
        assert await held.app.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule, delay=60) == first
        row = await the_row(outside, "select attempt, uncharged, errors, crashes from chimpbase.job_later")
    assert tuple(row) == (3, 3, None, 0)


async def test_a_throttled_job_comes_once_a_period_whatever_becomes_of_it(
    start: Start, held: Held, outside: asyncpg.Connection
) -> None:
    held.go.set()
    rule = Unique.throttle(timedelta(hours=1), key="u")
    queue = held.app
    async with start(queue):
        first = await queue.ctx.queue.enqueue(syncs, Sync(1, "a"), unique=rule)
        await until(lambda: outside.fetchval("select count(*) from chimpbase.job_done"))
        assert await queue.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule) == first
        await outside.execute("truncate chimpbase.job_done")
        assert await queue.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule) == first, "history is not needed"
        await outside.execute("update chimpbase.job_unique set until = now()")
        assert await queue.ctx.queue.enqueue(syncs, Sync(1, "b"), unique=rule) != first


async def test_a_dead_job_counts_where_that_was_said(start: Start, held: Held, outside: asyncpg.Connection) -> None:
    held.go.set()
    async with start(held.app):
        first = await held.app.ctx.queue.enqueue(syncs, Sync(1, "fail"), unique="u")
        await until(lambda: outside.fetchval("select count(*) from chimpbase.job_dead"))
        with_dead = Unique(key="u", states=("waiting", "running", "dead"))
        assert await held.app.ctx.queue.enqueue(syncs, Sync(1), unique=with_dead) == first
        assert await held.app.ctx.queue.enqueue(syncs, Sync(1), unique="u") != first


async def test_many_at_once_keep_their_order_and_meet_their_likes(app: App, outside: asyncpg.Connection) -> None:
    by_user = Unique(fields=("user",))
    (two,) = await app.ctx.queue.enqueue_many(syncs, [Sync(2, "old")], unique=by_user)
    ids = await app.ctx.queue.enqueue_many(
        syncs, [Sync(3, "a"), Sync(2, "b"), Sync(1, "c"), Sync(3, "d")], unique=by_user
    )
    assert (ids[1], ids[0], len(set(ids))) == (two, ids[3], 3)
    assert await stored(outside) == [(two, "old"), (ids[0], "a"), (ids[2], "c")]
    last = Unique(fields=("user",), on_conflict="replace")
    assert await app.ctx.queue.enqueue_many(syncs, [Sync(3, "x"), Sync(2, "y"), Sync(3, "z")], unique=last) == [
        ids[0],
        two,
        ids[0],
    ]
    assert await stored(outside) == [(two, "y"), (ids[0], "z"), (ids[2], "c")]


async def test_an_idempotency_key_makes_one_job_for_good(start: Start, held: Held, outside: asyncpg.Connection) -> None:
    held.go.set()
    async with start(held.app):
        queue = held.app.ctx.queue
        first = await queue.enqueue(syncs, Sync(1), idempotency_key="order-7")
        await until(lambda: outside.fetchval("select count(*) from chimpbase.job_done"))
        assert await queue.enqueue(syncs, Sync(1), idempotency_key="order-7") == first
        with pytest.raises(AlreadyEnqueued, match=str(int(first))):
            await queue.enqueue(syncs, Sync(2), idempotency_key="order-7")
        days = await the_value(outside, "select until - now() from chimpbase.job_unique")
        assert timedelta(days=6.9) < days <= timedelta(days=7)
        await outside.execute("update chimpbase.job_unique set until = now()")
        assert await queue.enqueue(syncs, Sync(2), idempotency_key="order-7") != first


async def test_an_idempotency_key_for_many_is_one_for_each_place(app: App) -> None:
    ids = await app.ctx.queue.enqueue_many(syncs, [Sync(1), Sync(1)], idempotency_key="import")
    assert len(set(ids)) == 2
    assert await app.ctx.queue.enqueue_many(syncs, [Sync(1), Sync(1)], idempotency_key="import") == ids


async def test_plain_functions_and_bound_connections_have_them(start: Start, held: Held, dsn: str) -> None:
    app = held.app

    @app.action
    def twice(ctx: SyncCtx) -> list[int]:
        return [int(ctx.queue.enqueue(syncs, Sync(1), unique="u")) for _ in range(2)]

    async with start(app, workers=False):
        ids = await app.call(twice)
        connection = await asyncpg.connect(dsn)
        async with connection.transaction():
            bound = app.bind(connection)
            ids.append(await bound.queue.enqueue(syncs, Sync(1), unique="u"))
            with pytest.raises(AlreadyEnqueued):
                await bound.queue.enqueue(syncs, Sync(1), unique=Unique(key="u", on_conflict="raise"))
            ids += await bound.queue.enqueue_many(syncs, [Sync(1)], unique="u")
        await connection.close()
    assert len(set(ids)) == 1
