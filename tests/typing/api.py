"""The public API as type checkers see it. Nothing here runs: mypy and pyright read it.

`assert_type` says what a user gets; `type: ignore` says what a user is kept from, and is itself an error to mypy when
nothing is refused there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from chimpbase import (
    KV,
    App,
    Cancel,
    Ctx,
    Event,
    Occurrence,
    Queue,
    Retry,
    Schedule,
    Signal,
    Snooze,
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


@dataclass
class NewOrder:
    sku: str


@dataclass
class Order:
    id: int


@dataclass
class Ship:
    order_id: int


@dataclass
class Payment:
    ok: bool


placed = Event("order.placed", Order)
ships = Queue("order.ship", Ship)
paid = Signal("payment", Payment)

assert_type(placed, Event[Order])
assert_type(ships, Queue[Ship])
assert_type(paid, Signal[Payment])


@action
async def place_order(ctx: Ctx, new: NewOrder, *, rush: bool = False) -> Order:
    order = await ctx.db.fetch_one("insert into orders (sku) values ($1) returning *", new.sku, as_=Order)
    assert_type(order, Order)
    assert_type(await ctx.db.fetch("select * from orders", as_=Order), list[Order])
    assert_type(await ctx.db.fetch_one("select 1"), dict[str, Any] | None)
    assert_type(await ctx.db.execute("delete from orders"), int)
    await ctx.pubsub.publish(placed, order)
    await ctx.pubsub.publish("order.placed", {"id": 1})
    await ctx.pubsub.publish(placed, new)  # type: ignore[misc]
    await ctx.queue.enqueue(ships, Ship(order.id), delay=timedelta(seconds=5))
    await ctx.queue.enqueue("order.ship", {"order_id": 1}, delay=5)
    await ctx.queue.enqueue(ships, order)  # type: ignore[misc]
    await ctx.workflow.start(checkout, order.id, id=f"order-{order.id}")
    return order


@action(name="order.cancel")
def cancel_order(ctx: SyncCtx, order_id: int) -> bool:
    return order_id > 0


async def callers(ctx: Ctx, app: App) -> None:
    assert_type(await place_order(ctx, NewOrder("a"), rush=True), Order)
    assert_type(await app.call(place_order, NewOrder("a")), Order)
    assert_type(await ctx.call(cancel_order, 1), bool)
    await place_order(ctx, "a")  # type: ignore[arg-type]
    await app.call(place_order)  # type: ignore[call-overload]


quotes = KV("quotes", Order, ttl=timedelta(minutes=5))
hits = KV("hits", int, cache=True)
anything = KV("anything")


async def keys(ctx: Ctx, sync: SyncCtx) -> None:
    assert_type(quotes, KV[Order])
    assert_type(anything, KV[Any])
    assert_type(await ctx.kv(quotes).get("a"), Order | None)
    assert_type(await ctx.kv(quotes).get("a", 0), Order | int)
    assert_type(await ctx.kv(quotes).set("a", Order(1)), int)
    assert_type(await ctx.kv(quotes).set("a", Order(1), if_absent=True), int | None)
    assert_type(await ctx.kv(quotes).get_many(["a"]), dict[str, Order])
    assert_type([entry.value for entry in await ctx.kv(quotes).entries("a")], list[Order])
    assert_type(await ctx.kv(hits).incr("a"), int)
    assert_type(sync.kv(hits).get("a"), int | None)
    await ctx.kv(quotes).set("a", Ship(1))  # type: ignore[call-overload]
    await ctx.kv.set("a", Ship(1), ttl=5)
    async with ctx.kv.lock("a", ttl=30) as lock:
        assert_type(lock.fence, int)
    with sync.kv.lock("a") as held:
        held.check()


@worker(ships, retry=Retry(max_attempts=8), timeout=timedelta(minutes=1))
async def ship(ctx: Ctx, job: Ship) -> None:
    assert_type(ctx.job.attempt, int)


@worker("order.pack")
async def pack(ctx: Ctx, job: Ship) -> Snooze | Cancel | None:
    return Snooze(for_=timedelta(minutes=1)) if job.order_id else Cancel("no order")


@worker(ships)  # type: ignore[arg-type]
async def ship_wrongly(ctx: Ctx, job: Order) -> None: ...


@worker(ships)
def ship_in_a_thread(ctx: SyncCtx, job: Ship) -> None: ...


@subscribe(placed)
async def queue_shipment(ctx: Ctx, event: Order) -> None:
    await ctx.queue.enqueue(ship, Ship(event.id))


@subscribe(placed)  # type: ignore[arg-type]
async def listen_wrongly(ctx: Ctx, event: Ship) -> None: ...


@cron("0 9 * * 1-5", tz="Europe/Lisbon")
async def daily_report(ctx: Ctx, due: Occurrence) -> None: ...


@step(retry=Retry(max_attempts=5))
async def charge(ctx: Ctx, order_id: int) -> str:
    return str(order_id)


@workflow("checkout", version=1)
async def checkout(wf: Wf, order_id: int) -> str:
    assert_type(await charge(wf, order_id), str)
    await charge(wf, "1")  # type: ignore[call-overload]
    await wf.sleep(timedelta(days=1))
    payment = await wf.wait(paid, timeout=timedelta(days=3))
    assert_type(payment, Payment | None)
    _ = wf.db  # type: ignore[attr-defined]
    return "paid" if payment and payment.ok else "expired"


@worker("charges")
def charge_again(ctx: SyncCtx, order_id: int) -> None:
    assert_type(charge(ctx, order_id), str)


app = App("shop", register=[place_order, cancel_order, ship, pack, queue_shipment, daily_report, checkout])


# Schedules: the payload is of the type that the handler of the occurrences, or of the queue, takes.


@cron(every(minutes=5), overlap="skip")
async def refresh(ctx: Ctx, due: Occurrence) -> None:
    assert_type(due.payload, Any)


@cron(name="invoice")
async def invoice(ctx: Ctx, due: Occurrence[Payment]) -> None:
    assert_type(due.payload, Payment)


@cron("@daily", payload=Payment(ok=True))
def paid_daily(ctx: SyncCtx, due: Occurrence[Payment]) -> None:
    assert_type(due.payload, Payment)


@cron("@daily", payload=1)  # type: ignore[arg-type]
async def wrong_daily(ctx: Ctx, due: Occurrence[Payment]) -> None: ...


async def schedules(ctx: Ctx) -> None:
    made = await ctx.cron.schedule("a", "@daily", to=invoice, payload=Payment(ok=True))
    assert_type(made, Schedule)
    await ctx.cron.schedule("a", every(hours=1), to=ships, payload=Ship(1), jitter=timedelta(minutes=5))
    await ctx.cron.schedule("a", "@daily", to="ship", payload={"order_id": 1})
    await ctx.cron.schedule("a", "@daily", to=ships, payload=Payment(ok=True))  # type: ignore[misc]
    assert_type(await ctx.cron.list(prefix="a"), list[Schedule])
