"""What is refused: bad payloads before any SQL, unknown names with the nearest one, wrong definitions at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import (
    App,
    Ctx,
    Event,
    Occurrence,
    Queue,
    Signal,
    SyncCtx,
    Wf,
    action,
    cron,
    every,
    step,
    subscribe,
    worker,
    workflow,
)
from chimpbase._core.errors import AlreadyRegistered, NotRegistered, NotStarted, PayloadError, UsageError
from tests.running import Ear, Start, left_over, listen_to_engine, listen_to_handlers

pytestmark = pytest.mark.anyio


@dataclass
class Item:
    sku: str
    quantity: int


@dataclass
class Order:
    items: list[Item]


orders = Queue("shop.order", Order)
anything = Queue("anything", Any)
placed = Event("order.placed", Order)
paid = Signal("paid", Order)


def shop() -> App:
    app = App("shop", register=[orders, anything, placed, paid])

    @app.action
    async def place_order(ctx: Ctx, order: Order) -> None: ...

    @app.subscribe(placed)
    async def on_placed(ctx: Ctx, order: Order) -> None: ...

    @app.workflow("checkout")
    async def checkout(wf: Wf, order: Order) -> None:
        await wf.wait(paid)

    return app


WRONG: dict[str, Any] = {"items": [{"sku": "tea", "quantity": "two"}]}


@pytest.mark.parametrize(
    "verb",
    [
        lambda ctx: ctx.queue.enqueue("shop.order", WRONG),
        lambda ctx: ctx.queue.enqueue(orders, Order([Item("tea", "two")])),  # type: ignore[arg-type]
        lambda ctx: ctx.pubsub.publish("order.placed", WRONG),
        lambda ctx: ctx.workflow.start("checkout", WRONG),
        lambda ctx: ctx.workflow.signal("a", paid, Order([Item("tea", "two")])),  # type: ignore[arg-type]
    ],
    ids=["enqueue by name", "enqueue", "publish", "start", "signal"],
)
async def test_a_payload_of_the_wrong_shape_is_refused_with_its_path_and_no_sql(
    start: Start, outside: asyncpg.Connection, verb: Callable[[Ctx], Any]
) -> None:
    app = shop()
    async with start(app, workers=False) as runtime:
        ear = Ear()
        listen_to_handlers(runtime, ear)
        listen_to_engine(runtime, ear)
        with pytest.raises(PayloadError) as caught:
            async with app.transaction() as ctx:
                await verb(ctx)
        assert "items[0].quantity" in caught.value.path
        assert ear.heard == []
        assert await left_over(outside) == {}


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        "a\0b",
        "\ud800",
        2**63,
        -(2**63) - 1,
        datetime(2026, 1, 1),
        "x" * (1024 * 1024),
        {"a\0": 1},
        object(),
        lambda: None,
    ],
    ids=["nan", "inf", "nul", "surrogate", "2**63", "-2**63-1", "naive", "1 MiB", "nul key", "object", "function"],
)
async def test_a_value_that_cannot_be_stored_is_refused_by_every_primitive(
    start: Start, outside: asyncpg.Connection, value: object
) -> None:
    app = shop()
    event, signal = Event("any", Any), Signal("any", Any)

    @app.workflow("any")
    async def any_flow(wf: Wf, given: Any) -> None: ...

    verbs: list[Callable[[Ctx], Any]] = [
        lambda ctx: ctx.queue.enqueue(anything, [value]),
        lambda ctx: ctx.pubsub.publish(event, [value]),
        lambda ctx: ctx.workflow.start(any_flow, [value]),
        lambda ctx: ctx.workflow.signal("a", signal, [value]),
        lambda ctx: ctx.kv.set("key", [value]),
    ]
    async with start(app, workers=False) as runtime:
        ear = listen_to_handlers(runtime, Ear())
        for verb in verbs:
            with pytest.raises(PayloadError):
                async with app.transaction() as ctx:
                    await verb(ctx)
        assert ear.heard == []
        assert await left_over(outside) == {}


@pytest.mark.parametrize(
    ("verb", "nearest"),
    [
        (lambda ctx: ctx.queue.enqueue("shop.ordr", {}), "shop.order"),
        (lambda ctx: ctx.pubsub.publish("order.plced", {}), "order.placed"),
        (lambda ctx: ctx.workflow.start("chekout", {}), "checkout"),
        (lambda ctx: ctx.call("place_ordr", {}), "place_order"),
    ],
    ids=["queue", "event", "workflow", "action"],
)
async def test_an_unknown_name_is_refused_with_the_nearest_one(
    start: Start, verb: Callable[[Ctx], Any], nearest: str
) -> None:
    app = shop()
    async with start(app, workers=False) as runtime:
        ear = listen_to_handlers(runtime, Ear())
        with pytest.raises(NotRegistered, match=nearest) as caught:
            async with app.transaction() as ctx:
                await verb(ctx)
        assert caught.value.nearest == nearest
        assert ear.heard == []


@pytest.mark.parametrize(
    "verb",
    [
        lambda ctx: ctx.queue.enqueue(anything, 1, delay=-1),
        lambda ctx: ctx.queue.enqueue(anything, 1, delay=float("nan")),
        lambda ctx: ctx.queue.enqueue(anything, 1, delay=timedelta(days=36500)),
        lambda ctx: ctx.queue.enqueue(anything, 1, priority=101),
        lambda ctx: ctx.queue.enqueue(anything, 1, priority=True),
        lambda ctx: ctx.queue.enqueue(anything, 1, max_attempts=0),
        lambda ctx: ctx.kv.set("", 1),
        lambda ctx: ctx.kv.set("a\0", 1),
        lambda ctx: ctx.kv.set("x" * 513, 1),
        lambda ctx: ctx.kv.set("a", 1, ttl=0),
        lambda ctx: ctx.workflow.start("checkout", Order([]), id=""),
        lambda ctx: ctx.workflow.result("a", timeout=-1),
    ],
)
async def test_an_option_out_of_range_is_refused(start: Start, verb: Callable[[Ctx], Any]) -> None:
    app = shop()
    async with start(app, workers=False) as runtime:
        ear = listen_to_handlers(runtime, Ear())
        with pytest.raises(UsageError):
            async with app.transaction() as ctx:
                await verb(ctx)
        assert ear.heard == []


async def async_with_sync_ctx(ctx: SyncCtx, n: int) -> None: ...


def sync_with_async_ctx(ctx: Ctx, n: int) -> None: ...


async def without_ctx() -> None: ...


async def two_payloads(ctx: Ctx, a: int, b: int) -> None: ...


async def other_type(ctx: Ctx, n: str) -> None: ...


async def on_time(ctx: Ctx, due: Occurrence) -> None: ...


async def typed_cron(ctx: Ctx, due: Occurrence[int]) -> None: ...


def sync_workflow(wf: Wf) -> None: ...


async def workflow_with_ctx(ctx: Ctx, n: int) -> None: ...


async def action_with_wf(wf: Wf, n: int) -> None: ...


@pytest.mark.parametrize(
    ("define", "says"),
    [
        (lambda: worker("q")(async_with_sync_ctx), "is async and asks for SyncCtx"),  # type: ignore[arg-type]
        (lambda: worker("q")(sync_with_async_ctx), "is a plain `def` and asks for Ctx"),  # type: ignore[arg-type]
        (lambda: worker("q")(without_ctx), "context"),  # type: ignore[arg-type]
        (lambda: worker("q")(two_payloads), "one payload"),  # type: ignore[arg-type]
        (lambda: worker(Queue("q", int))(other_type), "str"),  # type: ignore[arg-type]
        (lambda: subscribe("e")(async_with_sync_ctx), "SyncCtx"),  # type: ignore[arg-type]
        (lambda: step(sync_with_async_ctx), "asks for Ctx"),  # type: ignore[call-overload]
        (lambda: workflow("w")(sync_workflow), "async def"),  # type: ignore[arg-type]
        (lambda: workflow("w")(workflow_with_ctx), "asks for Ctx, but a workflow is given a Wf"),  # type: ignore[arg-type]
        (lambda: workflow("w")(async_with_sync_ctx), "asks for SyncCtx"),  # type: ignore[arg-type]
        (lambda: action(action_with_wf), "asks for Wf, which only a workflow is given"),  # type: ignore[call-overload]
        (lambda: cron("@daily")(other_type), r"Take Occurrence\[str\]"),  # type: ignore[arg-type]
        (lambda: cron("@daily")(typed_cron), "payload of schedule 'typed_cron'"),
        (lambda: cron("@daily")(two_payloads), "one payload"),  # type: ignore[arg-type]
        (lambda: cron("@daily", misfire="never")(on_time), "misfire must be"),  # type: ignore[arg-type, call-overload]
        (lambda: cron("@daily", overlap="stop")(on_time), "overlap must be"),  # type: ignore[arg-type, call-overload]
        (lambda: cron("@daily", max_missed=True)(on_time), "max_missed must be"),
        (lambda: cron("@daily", jitter=-1)(on_time), "jitter is"),
        (lambda: cron("@daily", jitter=float("nan"))(on_time), "jitter is"),
        (lambda: cron(every(minutes=5), tz="Europe/Lisbon")(on_time), "leave out tz"),
        (lambda: cron(b"@daily")(on_time), "must be text"),  # type: ignore[arg-type, call-overload]
        (lambda: cron("0 0 30 2 *")(other_type), "never fires"),  # type: ignore[arg-type]
        (lambda: cron("61 * * * *")(other_type), "not valid"),  # type: ignore[arg-type]
        (lambda: cron("* * * * *", tz="Europe/Lisbonn")(other_type), "Europe/Lisbon"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_definition_is_refused_when_it_is_made_with_file_and_line(
    define: Callable[[], object], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        define()
    assert "test_refusals.py:" in str(caught.value)


def test_two_definitions_of_one_name_are_refused_with_both_places() -> None:
    async def first(ctx: Ctx, n: int) -> None: ...

    async def second(ctx: Ctx, n: int) -> None: ...

    async def third(wf: Wf, n: int) -> None: ...

    async def fourth(wf: Wf, n: int) -> None: ...

    async def fifth(ctx: Ctx, due: Occurrence) -> None: ...

    async def sixth(ctx: Ctx, due: Occurrence) -> None: ...

    for make, one, other in (
        (worker("name"), first, second),
        (subscribe("e", name="name"), first, second),
        (cron("@daily", name="name"), fifth, sixth),
        (workflow("name"), third, fourth),
    ):
        app = App("twice", register=[make(one)])  # type: ignore[operator, list-item]
        with pytest.raises(AlreadyRegistered) as caught:
            app.register(make(other))  # type: ignore[operator]
        assert str(caught.value).count("test_refusals.py:") == 2


def test_two_tokens_of_one_name_and_different_types_are_refused() -> None:
    with pytest.raises(AlreadyRegistered):
        App("twice", register=[Queue("q", int), Queue("q", str)])


def test_a_name_of_the_runtimes_own_is_refused() -> None:
    for name in ("subscription:x", "cron:x", "workflow:x@1"):
        with pytest.raises(UsageError):
            Queue(name, int)


async def test_an_app_that_does_not_run_says_so(start: Start) -> None:
    app = shop()
    with pytest.raises(NotStarted):
        await app.call("place_order", Order([]))
    async with start(app, workers=False):
        with pytest.raises(UsageError, match="running"):
            async with start(app):
                pass
        with pytest.raises(UsageError, match="running"):
            app.register(Queue("late", int))
