"""Broadcasts: every live process hears what is committed, each once and in order, or is told of a gap."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, SyncCtx, errors, on_broadcast
from chimpbase._engine.broadcasts import BroadcastKeeper, Hearer, Hearing, Receiver
from chimpbase._store.broadcasts import Broadcast
from chimpbase.testing import rehearse
from tests.running import Start
from tests.waiting import until

pytestmark = pytest.mark.anyio


@dataclass
class Price:
    sku: str
    cents: int = 0


changed = Event("price.changed", Price)


def listener(*, topic: Any = changed, register: tuple[Any, ...] = ()) -> tuple[App, list[Any]]:
    """An app that writes down what it hears, and a gap as None."""
    heard: list[Any] = []
    app = App("shop", register=[changed, *register])

    @app.on_broadcast(topic, on_gap=lambda: heard.append(None))
    async def hear(ctx: Ctx, price: Any) -> None:
        heard.append(price)

    return app, heard


@pytest.mark.parametrize("notify", [True, False])
async def test_every_live_process_hears_what_is_committed(start: Start, notify: bool) -> None:
    apps, heard = zip(*(listener() for _ in range(3)), strict=True)
    async with AsyncExitStack() as stack:
        for place, app in enumerate(apps):
            # the last one works no queues, as one that only serves HTTP
            await stack.enter_async_context(start(app, workers=place < 2, notify=notify))
        for cents in range(5):
            async with apps[0].transaction() as ctx:
                await ctx.pubsub.broadcast(changed, Price("tea", cents))
        await apps[2].ctx.pubsub.broadcast("price.changed", {"sku": "tea", "cents": 5})
        await until(lambda: all(len(one) == 6 for one in heard), deadline_s=10)
    assert list(heard) == [[Price("tea", cents) for cents in range(6)]] * 3


async def test_what_is_taken_back_is_not_heard_and_what_an_action_says_is_heard_after_its_commit(start: Start) -> None:
    app, heard = listener()

    @app.action
    async def change(ctx: Ctx, cents: int) -> int:
        await ctx.pubsub.broadcast(changed, Price("tea", cents))
        await asyncio.sleep(0)
        assert heard == []
        if cents < 0:
            raise ValueError("no price")
        return cents

    async with start(app):
        with pytest.raises(ValueError, match="no price"):
            await app.call(change, -1)
        async with app.transaction() as ctx:
            with pytest.raises(ValueError, match="no price"):
                await change(ctx, -2)
            assert await change(ctx, 3) == 3
        await until(lambda: heard, deadline_s=10)
        await app.ctx.pubsub.broadcast(changed, Price("end"))
        await until(lambda: len(heard) > 1, deadline_s=10)
    assert heard == [Price("tea", 3), Price("end")]


async def test_what_commits_late_is_heard_though_later_ones_were(start: Start) -> None:
    app, heard = listener()
    async with start(app):
        async with app.transaction() as slow:
            await slow.pubsub.broadcast(changed, Price("slow"))
            await app.ctx.pubsub.broadcast(changed, Price("quick"))
            await until(lambda: heard, deadline_s=10)
        await until(lambda: len(heard) == 2, deadline_s=10)
        await app.ctx.pubsub.broadcast(changed, Price("end"))
        await until(lambda: len(heard) == 3, deadline_s=10)
    assert [price.sku for price in heard] == ["quick", "slow", "end"]


async def test_a_payload_may_be_longer_than_a_notification(start: Start) -> None:
    app, heard = listener(topic="page.*", register=(Event("page.changed", str),))
    async with start(app):
        for length in (7_900, 8_000, 9_000, 400_000):
            await app.ctx.pubsub.broadcast("page.changed", "é" * length)
        await until(lambda: len(heard) == 4, deadline_s=10)
    assert [len(one) for one in heard] == [7_900, 8_000, 9_000, 400_000]


async def test_patterns_plain_functions_and_topics(start: Start) -> None:
    heard: list[tuple[str, Any, bool]] = []
    app = App("shop", register=[changed, Event("price.dropped", dict), Event("other", dict)])

    @app.on_broadcast("price.*")
    def blocking(ctx: SyncCtx, event: dict[str, Any]) -> None:
        ctx.kv.set("last", event)
        heard.append((ctx.pubsub.topic, event, threading.current_thread() is threading.main_thread()))

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.pubsub.broadcast("other", {})
            await ctx.pubsub.broadcast(changed, Price("tea"))
            await ctx.pubsub.broadcast("price.dropped", {"a": 1})
        await until(lambda: len(heard) == 2, deadline_s=10)
        assert await app.ctx.kv.get("last") == {"a": 1}
    assert heard == [("price.changed", {"sku": "tea", "cents": 0}, False), ("price.dropped", {"a": 1}, False)]


async def test_an_error_is_logged_and_touches_nothing_else(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    app, heard = listener()

    @app.on_broadcast(changed)
    async def break_down(ctx: Ctx, price: Price) -> None:
        await ctx.kv.set("broken", price.cents)
        raise RuntimeError("the handler is broken")

    async with start(app):
        for cents in range(2):
            await app.ctx.pubsub.broadcast(changed, Price("tea", cents))
        await until(lambda: len(heard) == 2, deadline_s=10)
        await until(lambda: caplog.text.count("RuntimeError: the handler is broken") == 2, deadline_s=10)
        assert await app.ctx.kv.get("broken") is None  # its transaction is taken back
    assert "break_down" in caplog.text


async def test_a_payload_of_another_type_is_an_error_of_its_handler_alone(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app, heard = listener()
    async with start(app):
        await outside.execute("""select chimpbase.broadcast('price.changed', '"no price"')""")
        await outside.execute("""select chimpbase.broadcast('price.changed', '{"sku": "tea", "cents": 7}')""")
        await until(lambda: heard == [Price("tea", 7)], deadline_s=10)
        await until(lambda: "PayloadError" in caplog.text, deadline_s=10)


async def test_plain_sql_is_held_to_the_same_rules(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = listener()
    async with start(app):
        for wrong in ("('no such topic!', '1')", "(null, '1')", "('a', null)", """('a', '1', '{"delay": 1}')"""):
            with pytest.raises(asyncpg.PostgresError) as caught:
                await outside.execute(f"select chimpbase.broadcast{wrong}")
            assert getattr(caught.value, "sqlstate", "") == "CB002"


async def test_a_bound_transaction_broadcasts_with_its_commit(start: Start, outside: asyncpg.Connection) -> None:
    app, heard = listener()
    async with start(app):
        transaction = outside.transaction()
        await transaction.start()
        await app.bind(outside).pubsub.broadcast(changed, Price("tea"))
        await transaction.rollback()
        async with outside.transaction():
            await app.bind(outside).pubsub.broadcast(changed, Price("cup"))
        await until(lambda: heard, deadline_s=10)
    assert heard == [Price("cup")]


async def test_nothing_is_missed_while_the_connections_are_cut(start: Start, outside: asyncpg.Connection) -> None:
    app, heard = listener()
    async with start(app):
        for cents in range(20):
            await outside.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name like 'chimpbase shop engine%' and pid <> pg_backend_pid()"
            )
            await outside.execute(
                "select chimpbase.broadcast('price.changed', jsonb_build_object('sku', 'tea', 'cents', $1::int))", cents
            )
        await until(lambda: len(heard) >= 20, deadline_s=20)
    assert heard == [Price("tea", cents) for cents in range(20)]


async def test_a_crash_of_the_server_is_a_gap(start: Start, outside: asyncpg.Connection) -> None:
    app, heard = listener()
    async with start(app):
        await app.ctx.pubsub.broadcast(changed, Price("before"))
        await until(lambda: heard, deadline_s=10)
        # what a crash does to tables that are not logged
        await outside.execute("truncate chimpbase.broadcast, chimpbase.broadcast_era")
        await until(lambda: None in heard, deadline_s=10)
        await app.ctx.pubsub.broadcast(changed, Price("after"))
        await until(lambda: len(heard) == 3, deadline_s=10)
    assert heard == [Price("before"), None, Price("after")]


async def test_who_did_not_look_for_long_has_a_gap(start: Start) -> None:
    app, _ = listener()
    gaps: list[str] = []

    async def handle(one: Broadcast) -> None: ...

    async def gap() -> None:
        gaps.append("gap")

    hearing = Hearing(title="test", topics="^a$", wants=lambda topic: topic == "a", handle=handle, on_gap=gap)
    async with start(app) as runtime:
        lanes: Any = runtime._lanes
        receiver = Receiver(lanes, [hearing], poll_s=1, random=lambda: 0.5, keep_s=0)
        await receiver.begin()
        assert not receiver.hearers[0].has_more
        await receiver.tick()
        assert await receiver.hearers[0].take()
    assert gaps == ["gap"]


async def test_a_backlog_that_grows_too_long_becomes_a_gap() -> None:
    heard: list[str] = []

    async def handle(one: Broadcast) -> None:
        heard.append(one.payload)

    async def gap() -> None:
        heard.append("gap")

    hearing = Hearing(title="test", topics="^a$", wants=lambda topic: topic == "a", handle=handle, on_gap=gap)
    hearer = Hearer(hearing, random=lambda: 0.5, most=3)
    for n in range(5):
        hearer.put(Broadcast(topic="b", payload="", headers=None))
        hearer.put(Broadcast(topic="a", payload=str(n), headers=None))
    while await hearer.take():
        pass
    assert heard == ["gap", "3", "4"]


async def test_a_slow_handler_holds_up_no_other_and_keeps_no_app_from_stopping(start: Start) -> None:
    app, heard = listener()
    begun = asyncio.Event()

    @app.on_broadcast(changed)
    async def hang(ctx: Ctx, price: Price) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with start(app):
        for cents in range(3):
            await app.ctx.pubsub.broadcast(changed, Price("tea", cents))
        await until(lambda: len(heard) == 3, deadline_s=10)
        assert begun.is_set()


async def test_broadcasts_are_removed_once_everybody_has_heard_them(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = listener()

    async def kept() -> list[str]:
        return [row[0] for row in await outside.fetch("select payload::jsonb ->> 'sku' from chimpbase.broadcast")]

    async with start(app) as runtime:
        lanes: Any = runtime._lanes
        keeper = BroadcastKeeper(lanes, random=lambda: 0.5)
        async with app.transaction() as slow:
            await slow.pubsub.broadcast(changed, Price("late"))
            await app.ctx.pubsub.broadcast(changed, Price("old"))
            await keeper.tick()
        # it was sent before the keeper looked and committed afterwards: not everybody has heard it
        await keeper.tick()
        assert await kept() == ["late"]
        await keeper.tick()
        assert await kept() == []


async def test_a_rehearsal_hears_broadcasts_when_it_drains() -> None:
    app, heard = listener()

    @app.on_broadcast(changed)
    async def refuse(ctx: Ctx, price: Price) -> None:
        if price.cents < 0:
            raise ValueError("no price")

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.pubsub.broadcast(changed, Price("tea", 1))
        assert heard == []
        await t.drain()
        assert heard == [Price("tea", 1)]
        await t.drain()
        async with t.transaction() as ctx:
            await ctx.pubsub.broadcast(changed, Price("tea", -1))
        with pytest.raises(ValueError, match="no price"):
            await t.drain(raising=True)
    assert heard == [Price("tea", 1), Price("tea", -1)]


def test_what_cannot_be_a_handler_is_refused() -> None:
    async def hear(ctx: Ctx, price: Price) -> None: ...

    wrong: Any
    for wrong in ("a.#.b", "a b", "", 7):
        with pytest.raises(errors.UsageError):
            on_broadcast(wrong)(hear)
    for wrong in ("clear", lambda ctx: ctx):
        with pytest.raises(errors.UsageError, match="without arguments"):
            on_broadcast(changed, on_gap=wrong)(hear)
    with pytest.raises(errors.UsageError, match="takes Price, but is sent str"):
        on_broadcast(Event("a", str))(hear)  # type: ignore[arg-type]


async def test_a_pattern_is_heard_and_not_broadcast(start: Start) -> None:
    app, _ = listener(topic="price.*")
    async with start(app):
        with pytest.raises(errors.NotRegistered):
            await app.ctx.pubsub.broadcast("price.*", 1)
        with pytest.raises(errors.PayloadError):
            await app.ctx.pubsub.broadcast(changed, {"sku": 7})  # type: ignore[arg-type]
        definition = next(iter(app.registry.on_broadcasts.values()))
        with pytest.raises(errors.UsageError, match="pattern"):
            await app.ctx.pubsub.broadcast(definition, 1)
