"""Checkout: from a new order to the money. A workflow holds the thread while the bank takes its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from msgspec import Meta
from orders import Order, Status, cancel_order, pay_order

from chimpbase import Blueprint, Ctx, Event, Retry, Signal, Wf, action, errors, step, workflow

COOLING_OFF = timedelta(seconds=1)
PATIENCE = timedelta(days=3)


@dataclass(frozen=True)
class NewOrder:
    sku: Annotated[str, Meta(min_length=1, max_length=40)]
    qty: Annotated[int, Meta(ge=1, le=1000)] = 1
    ref: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
    sku: str
    qty: int


@dataclass(frozen=True)
class Payment:
    ok: bool


order_placed = Event("order.placed", OrderPlaced)
payment = Signal("payment", Payment)


def run_of(order_id: int) -> str:
    """The id of an order's checkout."""
    return f"order-{order_id}"


@action
async def place_order(ctx: Ctx, new: NewOrder) -> Order:
    """The order, its event and its checkout exist together or not at all.

    A client that never got its answer sends the same `ref` again, and gets the order it has already.
    """
    created = await ctx.db.fetch(
        "insert into orders (sku, qty, ref) values ($1, $2, $3) on conflict (ref) do nothing returning *",
        new.sku,
        new.qty,
        new.ref,
        as_=Order,
    )
    if not created:
        return await find_again(ctx, new)
    [order] = created
    await ctx.pubsub.publish(order_placed, OrderPlaced(order.id, order.sku, order.qty))
    await ctx.workflow.start(checkout, order.id, id=run_of(order.id))
    return order


async def find_again(ctx: Ctx, new: NewOrder) -> Order:
    order = await ctx.db.fetch_one("select * from orders where ref = $1", new.ref, as_=Order)
    if (order.sku, order.qty) != (new.sku, new.qty):
        raise errors.Conflict(f"Order {order.id} has the ref {new.ref!r} and is for {order.qty} {order.sku}.")
    return order


@action
async def confirm_payment(ctx: Ctx, order_id: int, ok: bool = True) -> None:
    """The bank's answer. It may come before the checkout waits for it: a signal is kept until then."""
    await ctx.workflow.signal(run_of(order_id), payment, Payment(ok))


@step(retry=Retry(max_attempts=5))
async def charge(ctx: Ctx, order_id: int) -> int:
    """Ask the bank for the money. The row and the memory that this step is done commit together."""
    return await ctx.db.fetch_value("insert into charge (order_id) values ($1) returning id", order_id)


@step
async def settle(ctx: Ctx, order_id: int, answer: Payment | None) -> Status:
    """Pay or cancel, unless the customer has cancelled meanwhile."""
    status: Status = await ctx.db.fetch_value("select status from orders where id = $1 for update", order_id)
    if status != "pending":
        return status
    order = await (pay_order if answer and answer.ok else cancel_order)(ctx, order_id)
    return order.status


@workflow("checkout", version=1)
async def checkout(wf: Wf, order_id: int) -> Status:
    await charge(wf, order_id)
    await wf.sleep(COOLING_OFF)
    answer = await wf.wait(payment, timeout=PATIENCE)
    return await settle(wf, order_id, answer)


blueprint = Blueprint("checkout", register=[place_order, confirm_payment, charge, settle, checkout])
