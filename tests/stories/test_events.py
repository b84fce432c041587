"""Events: every subscription is owed each one, and none disturbs another or the publisher."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Retry
from tests.running import Start, errors_of, history, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

placed = Event("order.placed", int)


def publisher() -> App:
    app = App("shop", register=[placed])

    @app.action
    async def place(ctx: Ctx, order: int) -> str:
        await ctx.db.execute("insert into ledger values ('publisher', $1)", f"order {order}")
        await ctx.pubsub.publish(placed, order)
        return "placed"

    return app


def subscribe(app: App, name: str, *, fails: bool = False) -> None:
    @app.subscribe(placed, name=name, retry=Retry(max_attempts=2, first=timedelta(0)))
    async def on_placed(ctx: Ctx, order: int) -> None:
        await ctx.db.execute("insert into ledger values ($1, $2)", name, f"{name} {order}")
        if fails:
            raise ValueError(name)


async def test_a_failing_subscriber_changes_neither_the_publisher_nor_the_others(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = publisher()
    subscribe(app, "good")
    subscribe(app, "bad", fails=True)
    subscribe(app, "fine")
    async with start(app):
        assert [await app.call("place", n) for n in range(5)] == ["placed"] * 5
        await until(lambda: is_idle(outside))
        wanted = [f"{who} {n}" for who in ("order", "good", "fine") for n in range(5)]
        assert sorted(await notes(outside)) == sorted(wanted)
        dead = await history(outside, "job_dead")
        assert [row["name"] for row in dead] == ["subscription:bad"] * 5
        assert [kind for _, kind, _ in errors_of(dead[0])] == ["ValueError"] * 2


async def test_an_event_reaches_the_subscriptions_of_apps_that_are_not_running(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, other = publisher(), App("other")
    subscribe(app, "here")
    subscribe(other, "there")
    async with start(other):
        pass
    async with start(app):
        await app.call("place", 1)
        await until(lambda: has(outside, 2))
        assert await notes(outside) == ["order 1", "here 1"]
    async with start(other):
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["order 1", "here 1", "there 1"]


async def test_two_processes_with_one_subscription_share_its_deliveries(
    start: Start, outside: asyncpg.Connection
) -> None:
    apps = [publisher(), publisher()]
    for app in apps:
        subscribe(app, "shared")
    async with start(apps[0]), start(apps[1]):
        for n in range(50):
            await apps[n % 2].call("place", n)
        await until(lambda: is_idle(outside))
        assert sorted(await notes(outside)) == sorted(f"{who} {n}" for who in ("order", "shared") for n in range(50))


async def test_events_published_by_a_subscriber_are_delivered_too(start: Start, outside: asyncpg.Connection) -> None:
    app = publisher()
    shipped = Event("order.shipped", int)

    @app.subscribe(placed)
    async def ship(ctx: Ctx, order: int) -> None:
        await ctx.pubsub.publish(shipped, order)

    @app.subscribe(shipped)
    async def thank(ctx: Ctx, order: int) -> None:
        await ctx.db.execute("insert into ledger values ('thank', $1)", f"thanks for {order}")

    async with start(app):
        await app.call("place", 1)
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["order 1", "thanks for 1"]


async def has(outside: asyncpg.Connection, n: int) -> bool:
    return len(await notes(outside)) >= n
