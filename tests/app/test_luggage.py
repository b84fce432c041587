"""What a handler enqueues before it touches the database travels in the batch that ends its job: with it, or not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Limits, Retry, Snooze, SyncCtx
from chimpbase._app.luggage import MOST_JOBS
from chimpbase.errors import Unreachable, UsageError
from tests.running import (
    Ear,
    Start,
    errors_of,
    history,
    is_idle,
    listen_to_engine,
    listen_to_handlers,
    notes,
    the_value,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio

ONCE = Retry(max_attempts=1)


def relays() -> tuple[App, list[int]]:
    """An app whose worker "write" notes what it is given, and the ids that its other workers were told."""
    app, told = App("relays"), list[int]()

    @app.worker("write")
    async def write(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('write', $1)", note)

    @app.worker("relay", retry=ONCE)
    async def relay(ctx: Ctx, kind: str) -> Snooze | None:
        match kind:
            case "enqueue":
                told.append(await ctx.queue.enqueue("write", "one"))
                told.extend(await ctx.queue.enqueue_many("write", ["two", "three"]))
            case "together":
                told.extend(await asyncio.gather(*(ctx.queue.enqueue("write", str(n)) for n in range(8))))
            case "options":
                await ctx.queue.enqueue("write", "later", delay=timedelta(seconds=0.05), priority=5)
                await ctx.queue.enqueue("gated", "gated", key="a")
            case "raise":
                await ctx.queue.enqueue("write", "never")
                raise ValueError("after all")
            case "sql":
                job = await ctx.queue.enqueue("write", "seen")
                found = await ctx.db.fetch_value("select payload from chimpbase.job where id = $1", int(job))
                await ctx.db.execute("insert into ledger values ('relay', $1)", found)
            case "status":
                job = await ctx.queue.enqueue("write", "looked at")
                await ctx.db.execute("insert into ledger values ('relay', $1)", (await job.status()).state)
            case "snooze" if not told:
                told.append(0)
                await ctx.queue.enqueue("write", "before the snooze")
                return Snooze(timedelta(milliseconds=20))
            case "on_commit":
                ctx.on_commit(lambda: told.append(-1))
                await ctx.queue.enqueue("write", "committed")
            case "action":
                await ctx.queue.enqueue("write", "outside")
                with pytest.raises(ValueError, match="inside"):
                    await ctx.call("fail")
            case "many":
                told.extend(await ctx.queue.enqueue_many("write", [str(n) for n in range(MOST_JOBS + 1)]))
            case _:
                pass
        return None

    _others(app, told)
    return app, told


def _others(app: App, told: list[int]) -> None:
    @app.action
    async def fail(ctx: Ctx) -> None:
        await ctx.queue.enqueue("write", "inside")
        raise ValueError("inside")

    @app.worker("relay.plainly")
    def relay_plainly(ctx: SyncCtx, note: str) -> None:
        told.append(ctx.queue.enqueue("write", note))

    @app.worker("gated", limits=Limits(key_concurrency=1))
    async def gated(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('gated', $1)", note)

    @app.worker("chain")
    async def chain(ctx: Ctx, n: int) -> None:
        told.append(n)
        if n:
            await ctx.queue.enqueue("chain", n - 1)


async def run(start: Start, outside: asyncpg.Connection, app: App, queue: str, payload: Any) -> list[str]:
    """Run one job and all that comes of it; the statements that handlers sent before anything was written."""
    async with start(app) as runtime:
        ear = listen_to_handlers(runtime, Ear())
        await app.ctx.queue.enqueue("relay", "nothing")
        await until(lambda: is_idle(outside))
        ear.heard.clear()
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(queue, payload)
        before = len(ear.heard)
        await until(lambda: is_idle(outside))
        return ear.heard[before:]


async def test_jobs_of_a_handler_that_only_enqueues_cost_no_transaction(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, told = relays()
    heard = await run(start, outside, app, "relay", "enqueue")
    assert sorted(await notes(outside)) == ["one", "three", "two"]
    assert told == sorted(told)
    assert [row["id"] for row in await history(outside, "job_done") if row["name"] == "write"] == told
    # three workers wrote, each in a transaction of its own; the one that enqueued had none
    assert sum(sql == "begin" for sql in heard) == 3


@pytest.mark.parametrize(
    ("kind", "noted"),
    [
        ("together", [str(n) for n in range(8)]),
        ("options", ["gated", "later"]),
        ("raise", []),
        ("sql", ['"seen"', "seen"]),
        ("status", ["looked at", "waiting"]),
        ("snooze", ["before the snooze"]),
        ("on_commit", ["committed"]),
        ("action", ["outside"]),
        ("many", sorted(str(n) for n in range(MOST_JOBS + 1))),
    ],
)
async def test_what_a_handler_enqueues_is_there_when_its_job_has_ended_and_only_then(
    start: Start, outside: asyncpg.Connection, kind: str, noted: list[str]
) -> None:
    app, told = relays()
    await run(start, outside, app, "relay", kind)
    assert sorted(await notes(outside)) == noted
    dead = [row["name"] for row in await history(outside, "job_dead")]
    assert dead == (["relay"] if kind == "raise" else [])
    assert told.count(-1) == (kind == "on_commit")


async def test_a_plain_handler_enqueues_the_same_way(start: Start, outside: asyncpg.Connection) -> None:
    app, told = relays()
    heard = await run(start, outside, app, "relay.plainly", "plainly")
    assert await notes(outside) == ["plainly"]
    assert len(told) == 1
    assert sum(sql == "begin" for sql in heard) == 1


async def test_jobs_under_ids_drawn_long_ago_take_their_turn_like_any_others(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, told = relays()
    # nobody looks around by itself in that time: each must be found by its place in the queue alone
    async with start(app, poll=timedelta(seconds=60), notify=False):
        await app.ctx.queue.enqueue("chain", 300)
        await until(lambda: len(told) > 300)
        assert told == list(range(300, -1, -1))
        await app.ctx.queue.pause("write")
        await app.ctx.queue.enqueue("write", "by itself")
        await app.ctx.queue.enqueue("relay", "enqueue")
        await until(lambda: the_value(outside, "select count(*) = 4 from chimpbase.job"))
    by_id, by_place = [
        await outside.fetchval(f"select array_agg(payload order by {column}) from chimpbase.job")
        for column in ("id", "sort")
    ]
    assert by_id == ['"one"', '"two"', '"three"', '"by itself"']
    assert by_place == ['"by itself"', '"one"', '"two"', '"three"']


@pytest.mark.parametrize("alone", [True, False], ids=["ends alone", "ends together with the one that has it"])
async def test_what_an_attempt_without_its_lease_enqueued_is_never_stored(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture, alone: bool
) -> None:
    app, reached, go_on = App("thief"), asyncio.Event(), [asyncio.Event() for _ in range(3)]

    @app.worker("relay")
    async def relay(ctx: Ctx, note: str) -> None:
        await ctx.queue.enqueue("write", f"{note} {ctx.job.attempt}")
        reached.set()
        await go_on[ctx.job.attempt].wait()

    @app.worker("write")
    async def write(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('write', $1)", note)

    async with start(app):
        await app.ctx.queue.enqueue("relay", "attempt")
        await reached.wait()
        # as a rescuer would have it
        await outside.execute("update chimpbase.job set process = null, crashes = crashes + 1")
        await until(lambda: the_value(outside, "select attempt = 2 from chimpbase.job"))
        go_on[1].set()
        if alone:
            await until(lambda: "ended after its lease" in caplog.text)
        go_on[2].set()
        await until(lambda: is_idle(outside))
    assert await notes(outside) == ["attempt 2"]


async def test_an_attempt_whose_jobs_the_database_refuses_has_failed_and_its_neighbours_have_not(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, _ = relays()

    @app.worker("pass.on", retry=ONCE, concurrency=20)
    async def pass_on(ctx: Ctx, n: int) -> None:
        await ctx.queue.enqueue("write", str(n))

    async with start(app):
        # 6 itself is welcome, and what comes of it is not
        await outside.execute("""alter table chimpbase.job add constraint taste check (payload <> '"6"')""")
        async with app.transaction() as ctx:
            await ctx.queue.enqueue_many("pass.on", range(12))
        await until(lambda: is_idle(outside))
    assert sorted(await notes(outside)) == sorted(str(n) for n in range(12) if n != 6)
    (dead,) = await history(outside, "job_dead")
    assert [(attempt, kind) for attempt, kind, _ in errors_of(dead)] == [(1, "CheckViolation")]


async def test_what_could_not_be_stored_when_a_transaction_began_is_stored_later(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, _ = relays()
    failing = ["the first time"]

    @app.worker("stubborn", retry=ONCE)
    async def stubborn(ctx: Ctx, note: str) -> None:
        await ctx.queue.enqueue("write", note)
        with pytest.raises(Unreachable):
            await ctx.db.fetch_value("select 1")

    def lose(sql: str) -> None:
        if "carried.enqueue" in sql and failing:
            failing.clear()
            raise ConnectionResetError

    async with start(app) as runtime:
        listen_to_handlers(runtime, Ear(before=lose))
        await app.ctx.queue.enqueue("stubborn", "still here")
        await until(lambda: is_idle(outside))
    assert not failing
    assert await notes(outside) == ["still here"]


async def test_a_handler_that_does_not_await_its_enqueue_fails(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = relays()
    drawing, go_on, left = asyncio.Event(), asyncio.Event(), set[asyncio.Task[Any]]()

    @app.worker("hasty", retry=ONCE)
    async def hasty(ctx: Ctx, note: str) -> None:
        left.add(asyncio.ensure_future(ctx.queue.enqueue("write", note)))
        await drawing.wait()

    async def hold(sql: str) -> None:
        if "carried.draw" in sql:
            drawing.set()
            await go_on.wait()

    async with start(app) as runtime:
        listen_to_engine(runtime, Ear(before=hold))
        await app.ctx.queue.enqueue("hasty", "never")
        await until(lambda: is_idle(outside))
        go_on.set()
        with pytest.raises(UsageError, match="has ended"):
            await left.pop()
    (dead,) = await history(outside, "job_dead")
    assert "still runs" in errors_of(dead)[0][2]
    assert await notes(outside) == []


async def test_a_delay_counts_from_the_call(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = relays()

    @app.worker("slow")
    async def slow(ctx: Ctx, note: str) -> None:
        await ctx.queue.enqueue("write.singly", "delayed", delay=0.05)
        called_s = monotonic()
        await until(lambda: monotonic() > called_s + 0.05)
        await ctx.queue.enqueue("write.singly", "at once")

    @app.worker("write.singly", concurrency=1)
    async def write(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('write', $1)", note)

    # nobody looks around by itself in that time: whoever stores them must tell
    async with start(app, poll=timedelta(seconds=60), notify=False):
        await app.ctx.queue.enqueue("slow", "")
        await until(lambda: is_idle(outside))
    assert await notes(outside) == ["delayed", "at once"]


async def test_a_job_of_an_instant_that_has_passed_begins_at_once(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = relays()
    async with start(app, poll=timedelta(seconds=60), notify=False):
        await app.ctx.queue.enqueue("write", "now")
        await until(lambda: is_idle(outside))
        async with app.transaction() as ctx:
            await ctx.queue.enqueue("write", "past", run_at=datetime(2020, 1, 1, tzinfo=UTC))
        await until(lambda: is_idle(outside))
    assert await notes(outside) == ["now", "past"]


async def test_jobs_of_a_strictly_ordered_queue_keep_the_order_of_the_calls(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, _ = relays()

    @app.worker("strict", limits=Limits(ordered=True))
    async def strict(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('strict', $1)", note)

    @app.worker("mixed")
    async def mixed(ctx: Ctx, note: str) -> None:
        await ctx.queue.enqueue("chain", 0)
        await ctx.queue.enqueue("strict", note, key="a")

    async with start(app):
        # this process has drawn ids that are older than what follows
        await app.ctx.queue.enqueue("chain", 1)
        await until(lambda: is_idle(outside))
        await app.ctx.queue.pause("strict")
        async with app.transaction() as ctx:
            await ctx.queue.enqueue("strict", "first", key="a")
        await app.ctx.queue.enqueue("mixed", "second")
        await until(lambda: the_value(outside, "select count(*) = 2 from chimpbase.job_wait"))
        await app.ctx.queue.resume("strict")
        await until(lambda: is_idle(outside))
    assert await notes(outside) == ["first", "second"]
