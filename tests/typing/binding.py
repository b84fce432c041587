"""`App.bind` as type checkers see it: asynchronous connections give a Ctx, synchronous ones a SyncCtx. Nothing runs."""

from __future__ import annotations

from typing import Any, assert_type

import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from chimpbase import App, Ctx, Queue, SyncCtx, action

ships = Queue("order.ship", int)


@action
async def place_order(ctx: Ctx, sku: str) -> int:
    return len(sku)


async def asynchronous(
    app: App, one: psycopg.AsyncConnection, two: AsyncSession, three: AsyncConnection, other: object
) -> None:
    for connection in (one, two, three):
        ctx: Ctx = app.bind(connection)
        assert_type(await ctx.call(place_order, "tea"), int)
        assert_type(await place_order(ctx, "tea"), int)
        await ctx.queue.enqueue(ships, "tea")  # type: ignore[misc]
    app.bind(one).wake()
    assert_type(app.bind(other), Any)


def synchronous(app: App, one: psycopg.Connection, two: Session, three: Connection) -> None:
    for connection in (one, two, three):
        ctx: SyncCtx = app.bind(connection)
        assert_type(ctx.call(place_order, "tea"), int)
        ctx.queue.enqueue(ships, 1)
    app.bind(one).wake()
    not_async: Ctx = app.bind(two)  # type: ignore[assignment]
    _ = not_async
