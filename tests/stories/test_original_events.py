"""Events as the TypeScript Chimpbase has them: what its tests pin, and those of its defects that must not return."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Retry, errors
from chimpbase._engine.engine import CHANNEL
from chimpbase.testing import rehearse
from tests.running import Start, is_idle, notes, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

placed = Event("order.placed", int)
paid = Event("order.paid", int)
nobodys = Event("nobody.listens", int)


@dataclass
class Shop:
    app: App = field(default_factory=lambda: App("shop", register=[placed, paid, nobodys]))
    handled: list[tuple[str, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listen("audit", placed)
        self.listen("thank", placed)
        self.listen("book", paid)

    def listen(self, name: str, event: Event[int]) -> None:
        @self.app.subscribe(event, name=name)
        async def handle(ctx: Ctx, order: int) -> None:
            self.handled.append((name, ctx.pubsub.topic, order))


def noting(app: App, gate: asyncio.Event | None = None) -> App:
    """The app with a subscription that writes into the ledger; order 1 waits for the gate to open."""

    @app.subscribe(placed, name="note")
    async def note(ctx: Ctx, order: int) -> None:
        await ctx.db.execute("insert into ledger values ('note', $1)", str(order))
        if gate is not None and order == 1:
            await gate.wait()

    return app


async def test_an_event_is_there_exactly_when_its_publisher_has_committed() -> None:
    shop = Shop()
    async with rehearse(shop.app) as t:
        async with t.transaction() as ctx:
            await ctx.pubsub.publish(placed, 7)
            assert await t.published(placed) == []
            assert (await t.drain()).attempts == 0
        assert await t.published(placed) == [7]
        with pytest.raises(ZeroDivisionError):
            async with t.transaction() as ctx:
                await ctx.pubsub.publish(placed, 8)
                raise ZeroDivisionError
        await t.drain(raising=True)
        assert await t.published(placed) == [7]
    assert sorted(shop.handled) == [("audit", "order.placed", 7), ("thank", "order.placed", 7)]


async def test_a_topic_reaches_its_own_handlers_and_an_unheard_one_harms_nobody() -> None:
    shop = Shop()
    async with rehearse(shop.app) as t:
        async with t.transaction() as ctx:
            await ctx.pubsub.publish(placed, 1)
            await ctx.pubsub.publish(paid, 2)
            await ctx.pubsub.publish(nobodys, 3)
            with pytest.raises(errors.NotRegistered):
                await ctx.pubsub.publish("order.palced", 4)
        drained = await t.drain(raising=True)
        assert (drained.attempts, drained.completed) == (3, 3)
        assert await t.published(nobodys) == [3]
        assert (await t.drain()).attempts == 0
    assert sorted(shop.handled) == [
        ("audit", "order.placed", 1),
        ("book", "order.paid", 2),
        ("thank", "order.placed", 1),
    ]


async def test_an_event_is_handled_once_and_its_like_again() -> None:
    """There: once for each id, where a handler says so. Here every handler has its effects once for each event."""
    tries: list[int] = []
    app = App("shop", register=[placed])

    @app.subscribe(placed, name="count", retry=Retry(first=timedelta(seconds=1)))
    async def count(ctx: Ctx, order: int) -> None:
        tries.append(await ctx.kv.incr("handled"))
        if len(tries) == 1:
            raise ConnectionError("the first attempt is taken back, with all it did")

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            first, second = await ctx.pubsub.publish(placed, 7), await ctx.pubsub.publish(placed, 7)
        assert first != second
        await t.advance(timedelta(minutes=1))
        async with t.transaction() as ctx:
            assert await ctx.kv.get("handled") == 2
            assert await ctx.pubsub.replay("count") == 2  # to handle them once more is to be asked for
        await t.drain(raising=True)
        async with t.transaction() as ctx:
            assert await ctx.kv.get("handled") == 4
    assert tries == [1, 1, 2, 3, 4]


async def test_an_action_returns_before_its_subscribers_have_run(start: Start, outside: asyncpg.Connection) -> None:
    """There: the default ran them before the call returned, and a slow one was waited for."""
    gate = asyncio.Event()
    app = noting(App("shop", register=[placed]), gate)

    @app.action
    async def place(ctx: Ctx, order: int) -> str:
        await ctx.pubsub.publish(placed, order)
        return "placed"

    async with start(app):
        assert await app.call("place", 1) == "placed"
        assert await notes(outside) == []
        gate.set()
        await until(lambda: is_idle(outside))
    assert await notes(outside) == ["1"]


async def test_a_busy_subscriber_hears_all_that_another_process_publishes(
    start: Start, outside: asyncpg.Connection
) -> None:
    """There: a process skipped what others published whenever it committed something itself: 0 of 20 arrived."""
    subscriber, publisher = noting(App("subscriber", register=[paid])), App("publisher", register=[placed])
    async with start(subscriber), start(publisher, workers=False):

        async def publish(n: int) -> None:
            await publisher.ctx.pubsub.publish(placed, n)
            await subscriber.ctx.pubsub.publish(paid, n)

        for n in range(20):
            await publish(n)
        await until(lambda: has(outside, 20), deadline_s=5)
        await until(lambda: is_idle(outside))
    assert sorted(map(int, await notes(outside))) == list(range(20))


async def test_what_was_published_before_a_process_ended_is_handled_by_the_next_and_once(
    start: Start, outside: asyncpg.Connection
) -> None:
    """There: dispatched from memory after the commit, so lost with the process; and markers against a second time."""
    app = noting(App("shop", register=[placed]))
    async with start(app, workers=False):
        await app.ctx.pubsub.publish(placed, 1)
        # the publisher's commit holds the delivery too; nothing is left to be done
        assert await outside.fetchval("select count(*) from chimpbase.job") == 1
    for wanted in (["1"], ["1", "2"]):
        app = noting(App("shop", register=[placed]))
        async with start(app):
            if wanted[-1] == "2":
                await app.ctx.pubsub.publish(placed, 2)
            await until(lambda wanted=wanted: has(outside, len(wanted)))
            await until(lambda: is_idle(outside))
            assert await notes(outside) == wanted


async def test_a_slow_handler_in_two_processes_runs_once(start: Start, outside: asyncpg.Connection) -> None:
    """There: each process handled each event, and the marker was read before the handler and written after it."""
    gate = asyncio.Event()
    apps = [noting(App("shop", register=[placed]), gate) for _ in range(2)]
    async with start(apps[0]), start(apps[1]):
        await apps[0].ctx.pubsub.publish(placed, 1)
        await until(lambda: outside.fetchval("select count(*) from chimpbase.job where process is not null"))
        for n in range(2, 12):
            await apps[n % 2].ctx.pubsub.publish(placed, n)
        await until(lambda: has(outside, 10))
        gate.set()
        await until(lambda: is_idle(outside))
    assert sorted(map(int, await notes(outside))) == list(range(1, 12))


async def test_a_delivery_has_no_part_in_an_action_that_is_open(start: Start, outside: asyncpg.Connection) -> None:
    """There: a handler joined whatever transaction was open in its process, and was rolled back with it."""
    opened, fail = asyncio.Event(), asyncio.Event()
    app = noting(App("shop", register=[placed]))

    @app.action
    async def fail_late(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('action', 'never')")
        opened.set()
        await fail.wait()
        raise ZeroDivisionError

    async with start(app):
        failing = asyncio.create_task(app.call("fail_late"))
        await opened.wait()
        await app.ctx.pubsub.publish(placed, 1)
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["1"]
        fail.set()
        with pytest.raises(ZeroDivisionError):
            await failing
    assert await notes(outside) == ["1"]


async def test_an_event_longer_than_a_notification_is_one_like_any(start: Start, outside: asyncpg.Connection) -> None:
    """There: over 7,800 bytes the bus refused it, after the commit, and the action that was committed failed."""
    app, said = App("shop"), Event("said", str)
    heard: list[str] = []

    @app.subscribe(said)
    async def hear(ctx: Ctx, text: str) -> None:
        heard.append(text)

    async with start(app):
        await app.ctx.pubsub.publish(said, "long " * 4000)
        await until(lambda: heard)
    assert heard == ["long " * 4000]


async def test_foreign_notifications_are_ignored_and_a_stop_leaves_no_connection(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = noting(App("shop", register=[placed]))
    async with start(app, poll=60):
        for channel in (CHANNEL, "another"):
            for text in ("", "{not json", "0", "a\tb c", "x" * 7900):
                await outside.execute("select pg_notify($1, $2)", channel, text)
        await app.ctx.pubsub.publish(placed, 1)
        await until(lambda: has(outside, 1))
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    await until(lambda: is_alone(outside))


async def is_alone(outside: asyncpg.Connection) -> bool:
    return await the_value(
        outside,
        "select count(*) = 1 from pg_stat_activity "
        "where datname = current_database() and backend_type = 'client backend'",
    )


async def has(outside: asyncpg.Connection, n: int) -> bool:
    return len(await notes(outside)) >= n
