"""The app as an ASGI application: by itself on any server, and mounted in another application."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from chimpbase import errors
from chimpbase.http import asgi, route, runtime_of
from tests.http.serving import read, shop
from tests.running import notes

pytestmark = pytest.mark.anyio


def client_of(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")


async def test_its_lifespan_runs_the_app(dsn: str, tmp_path: Path, outside: asyncpg.Connection) -> None:
    web = asgi(shop(), database_url=dsn, project=tmp_path)
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(web({"type": "lifespan"}, inbox.get, said.put))
    inbox.put_nowait({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    async with client_of(web) as client:
        assert (await client.post("/orders", json={"sku": "tea"})).status_code == 201
        assert (await client.get("/ready")).json() == {"ok": True}
    inbox.put_nowait({"type": "lifespan.shutdown"})
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await life
    assert await notes(outside) == ["tea"]


async def test_a_start_that_fails_is_told_to_the_server(tmp_path: Path) -> None:
    web = asgi(shop(), database_url="postgresql://nobody@127.0.0.1:1/none", project=tmp_path)
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    with pytest.raises(errors.Unreachable):
        await web({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in said] == ["lifespan.startup.failed"]


async def test_a_host_that_is_given_its_lifespan_can_mount_it(dsn: str, tmp_path: Path) -> None:
    async def own(request: Request) -> Response:
        order: Any = await runtime_of(request).call(read, order_id=2)
        return JSONResponse(order.id)

    web = asgi(shop(), database_url=dsn, project=tmp_path)
    host = Starlette(routes=[Mount("/shop", app=web), Route("/own", own)], lifespan=web.lifespan)
    async with host.router.lifespan_context(host) as state, client_of(_with_state(host, state)) as client:
        assert (await client.get("/shop/orders/5")).json()["id"] == 5
        assert (await client.get("/shop/health")).json() == {"ok": True}
        assert (await client.get("/own")).json() == 2


async def test_mounted_without_its_lifespan_it_says_what_to_do(tmp_path: Path) -> None:
    host = Starlette(routes=[Mount("/shop", app=asgi(shop(), project=tmp_path))])
    async with client_of(host) as client:
        with pytest.raises(errors.NotStarted, match="A host does not run the lifespan of what it mounts"):
            await client.get("/shop/orders/5")


async def test_a_request_from_elsewhere_has_no_running_app() -> None:
    with pytest.raises(errors.NotStarted, match=r"route\.plain"):
        runtime_of({"type": "http"})
    assert str(route.get("/a", read_by_name)) == "GET /a -> show"


read_by_name = "show"


def _with_state(app: Any, state: Any) -> Any:
    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return with_state
