"""Serving: an app on a real socket, the clients that talk to it, and the shop that most of these tests sell from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from chimpbase import App, Ctx, Runtime, SyncCtx, action, errors
from chimpbase.http import HttpError, route
from chimpbase.http.edge import HttpEdge
from chimpbase.http.limits import Limits
from tests.running import Start

CANARY = "canary-5f2e-secret"


class Served:
    """A served app: `client` for well-behaved requests, `raw` and `connect` for the others."""

    def __init__(self, runtime: Runtime, edge: HttpEdge, client: httpx2.AsyncClient) -> None:
        self.runtime, self.edge, self.client = runtime, edge, client
        place = urlsplit(edge.address)
        assert place.hostname
        assert place.port
        self.place = (place.hostname, place.port)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.place)

    async def raw(self, data: bytes) -> tuple[int, bytes]:
        """Send bytes, and read until the server closes: the status, and everything it said."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            said = await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            said = b""
        writer.close()
        return status_of(said), said


class Serve(Protocol):
    """Serve an app on a free port."""

    def __call__(
        self, app: App, *, limits: Limits | None = None, **settings: Any
    ) -> AbstractAsyncContextManager[Served]: ...


@pytest.fixture
def serve(start: Start, outside: asyncpg.Connection) -> Serve:
    @asynccontextmanager
    async def serve(app: App, *, limits: Limits | None = None, **settings: Any) -> AsyncGenerator[Served]:
        async with start(app, port=0, **settings) as runtime:
            edge = HttpEdge(runtime, app.edge_entries, limits=limits)
            await edge.start()
            try:
                async with httpx2.AsyncClient(base_url=edge.address, trust_env=False) as client:
                    yield Served(runtime, edge, client)
            finally:
                await edge.stop()

    return serve


def status_of(said: bytes) -> int:
    return int(said.split(b" ", 2)[1]) if said else 0


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """A request with a length, that closes the connection after it."""
    lines = [f"{method} {path} HTTP/1.1", "host: test", "connection: close", *headers]
    if body:
        lines += [f"content-length: {len(body)}", "content-type: application/json"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error_of(response: httpx2.Response) -> dict[str, Any]:
    return json.loads(response.content)["error"]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@dataclass(slots=True)
class NewOrder:
    sku: str
    qty: int = 1
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    id: int
    sku: str
    qty: int


@action
async def place(ctx: Ctx, new: NewOrder) -> Order:
    await ctx.db.execute("insert into ledger values ('place', $1)", new.sku)
    return Order(1, new.sku, new.qty)


@action
async def rename(ctx: Ctx, order_id: int, name: str, *, loud: bool = False) -> dict[str, Any]:
    await ctx.db.execute("insert into ledger values ('rename', $1)", name)
    return {"id": order_id, "name": name.upper() if loud else name}


@action
async def replace(ctx: Ctx, id: int, new: NewOrder, dry: bool = False) -> tuple[int, NewOrder, bool]:
    return id, new, dry


@action
async def find(ctx: Ctx, filter: NewOrder) -> NewOrder:
    return filter


@action
async def search(ctx: Ctx, sku: str, tag: list[str], limit: int | None = None) -> list[Any]:
    return [sku, tag, limit]


@action
def read(ctx: SyncCtx, order_id: int) -> Order:
    return Order(order_id, "tea", 1)


@action
async def forget(ctx: Ctx, order_id: int) -> None:
    await ctx.db.execute("insert into ledger values ('forget', $1)", str(order_id))


@action
async def fail(ctx: Ctx, how: str) -> None:
    await ctx.db.execute("insert into ledger values ('fail', $1)", how)
    raise FAILURES[how]


@action
async def misreport(ctx: Ctx) -> int:
    await ctx.db.execute("insert into ledger values ('misreport', 'x')")
    return CANARY  # type: ignore[return-value]


FAILURES: dict[str, Exception] = {
    "bug": RuntimeError(CANARY),
    "payload": errors.PayloadError(CANARY),
    "usage": errors.NotRegistered("queue", CANARY),
    "secret": errors.NotFound("secret", CANARY),
    "query": errors.QueryError(CANARY),
    "missing": errors.NotFound("order", 7),
    "conflict": errors.Conflict("The order has been shipped."),
    "started": errors.AlreadyStarted("checkout", "order-7"),
    "unique": errors.UniqueViolation(CANARY),
    "unreachable": errors.Unreachable(CANARY),
    "full": errors.StorageFull(CANARY),
    "timeout": errors.StatementTimeout(CANARY),
    "serialization": errors.SerializationConflict(CANARY),
    "unknown": errors.OutcomeUnknown(CANARY),
    "own": HttpError(418, "I am a teapot.", headers={"x-tea": "green"}),
}


def shop(*more: object) -> App:
    return App(
        "shop",
        register=[
            route.post("/orders", place, status=201),
            route.get("/orders", find),
            route.get("/search", search),
            route.get("/orders/{order_id}", read),
            route.put("/orders/{id}", replace),
            route.delete("/orders/{order_id}", forget),
            route.post("/orders/{order_id}/name", rename),
            route.post("/fail/{how}", fail),
            route.post("/misreport", misreport),
            *more,
        ],
    )
