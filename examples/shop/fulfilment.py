"""Fulfilment: what follows from an order. Nobody waits for it, and none of it is ever lost or done twice."""

from __future__ import annotations

from checkout import OrderPlaced, order_placed
from orders import OrderPaid, move, order_paid

from chimpbase import Blueprint, Ctx, Occurrence, Queue, Retry, cron, subscribe, worker

shipments = Queue("order.ship", int)


@subscribe(order_placed)
async def audit_order(ctx: Ctx, event: OrderPlaced) -> None:
    await ctx.db.execute("insert into audit (order_id, what) values ($1, 'placed')", event.order_id)


@subscribe(order_placed)
async def reserve_stock(ctx: Ctx, event: OrderPlaced) -> None:
    await ctx.db.execute(
        "insert into stock (sku, reserved) values ($1, $2)"
        " on conflict (sku) do update set reserved = stock.reserved + excluded.reserved",
        event.sku,
        event.qty,
    )


@subscribe(order_paid)
async def request_shipment(ctx: Ctx, event: OrderPaid) -> None:
    await ctx.queue.enqueue(shipments, event.order_id)


@worker(shipments, retry=Retry(max_attempts=8))
async def ship_order(ctx: Ctx, order_id: int) -> None:
    """The order and the completion of this job change in one commit: shipped means shipped once."""
    await move(ctx, order_id, "shipped")
    await ctx.db.execute("update orders set shipped_at = now() where id = $1", order_id)


@cron("* * * * * *")
async def snapshot_orders(ctx: Ctx, due: Occurrence) -> None:
    """How many orders are in each status, every second, so that the demo has something to count."""
    await ctx.db.execute(
        "insert into snapshot (due_at, counts) select $1, coalesce(jsonb_object_agg(status, n), '{}')"
        " from (select status, count(*) as n from orders group by status) as statuses",
        due.due_at,
    )


blueprint = Blueprint(
    "fulfilment", register=[audit_order, reserve_stock, request_shipment, ship_order, snapshot_orders]
)
