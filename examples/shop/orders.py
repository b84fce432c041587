"""Orders: what one is, and the statuses it may go through.

    pending ──► paid ──► shipped ──► completed
       └─────────┴──► cancelled

Every change of status goes through `move`, which locks the order and asks `assert_transition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from chimpbase import Blueprint, Ctx, Event, action, errors

Status = Literal["pending", "paid", "shipped", "completed", "cancelled"]

NEXT: Mapping[Status, tuple[Status, ...]] = {
    "pending": ("paid", "cancelled"),
    "paid": ("shipped", "cancelled"),
    "shipped": ("completed",),
    "completed": (),
    "cancelled": (),
}


@dataclass(frozen=True)
class Order:
    id: int
    ref: str | None
    sku: str
    qty: int
    status: Status
    created_at: datetime
    shipped_at: datetime | None


@dataclass(frozen=True)
class OrderPaid:
    order_id: int


order_paid = Event("order.paid", OrderPaid)


class IllegalTransition(errors.WrongState):
    """The order cannot go from its status to the one asked for. Over HTTP this is a 409."""

    def __init__(self, order: Order, to: Status) -> None:
        sources = [status for status, targets in NEXT.items() if to in targets]
        message = f"Order {order.id} is {order.status}; only a {' or '.join(sources)} order becomes {to}."
        super().__init__(message, state=order.status, wanted=" or ".join(sources))


def assert_transition(order: Order, to: Status) -> None:
    """Raises IllegalTransition when the state machine has no such arrow."""
    if to not in NEXT[order.status]:
        raise IllegalTransition(order, to)


async def move(ctx: Ctx, order_id: int, to: Status) -> Order:
    """Change the status of an order, which stays locked until this transaction ends."""
    order = await ctx.db.fetch_one("select * from orders where id = $1 for update", order_id, as_=Order)
    assert_transition(order, to)
    return await ctx.db.fetch_one("update orders set status = $2 where id = $1 returning *", order_id, to, as_=Order)


@action
async def get_order(ctx: Ctx, order_id: int) -> Order:
    return await ctx.db.fetch_one("select * from orders where id = $1", order_id, as_=Order)


@action
async def list_orders(ctx: Ctx, status: Status | None = None, limit: int = 20) -> list[Order]:
    return await ctx.db.fetch(
        "select * from orders where $1::text is null or status = $1 order by id desc limit least($2, 100)",
        status,
        limit,
        as_=Order,
    )


@action
async def pay_order(ctx: Ctx, order_id: int) -> Order:
    order = await move(ctx, order_id, "paid")
    await ctx.pubsub.publish(order_paid, OrderPaid(order_id))
    return order


@action
async def cancel_order(ctx: Ctx, order_id: int) -> Order:
    return await move(ctx, order_id, "cancelled")


@action
async def complete_order(ctx: Ctx, order_id: int) -> Order:
    return await move(ctx, order_id, "completed")


blueprint = Blueprint("orders", register=[get_order, list_orders, pay_order, cancel_order, complete_order])
