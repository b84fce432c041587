"""The app that is bound in these tests: a worker, a subscription, a workflow, and an action in both colours."""

from __future__ import annotations

from dataclasses import dataclass

from chimpbase import App, Ctx, Event, Queue, Signal, SyncCtx, Wf


@dataclass
class Ship:
    order: str


ships = Queue("order.ship", Ship)
placed = Event("order.placed", Ship)
paid = Signal("paid", bool)


def shop() -> App:
    app = App("shop")

    @app.worker(ships)
    async def ship(ctx: Ctx, job: Ship) -> None:
        await ctx.db.execute("insert into ledger values ('ship', $1)", job.order)

    @app.subscribe(placed)
    async def on_placed(ctx: Ctx, event: Ship) -> None:
        await ctx.db.execute("insert into ledger values ('placed', $1)", event.order)

    @app.workflow("checkout")
    async def checkout(wf: Wf, order: str) -> str:
        return order if await wf.wait(paid) else "nothing"

    @app.action
    async def place(ctx: Ctx, order: str, fail: bool = False) -> str:
        await ctx.db.execute("insert into ledger values ('place', $1)", order)
        await ctx.queue.enqueue(ships, Ship(order))
        if fail:
            raise ZeroDivisionError
        return f"placed {order}"

    @app.action
    def place_plainly(ctx: SyncCtx, order: str, fail: bool = False) -> str:
        return ctx.call(place, order, fail=fail)

    return app
