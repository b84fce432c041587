"""Serving: the start, the stop, the probes, and what else may be registered beside actions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from chimpbase import App, Ctx, action, errors
from chimpbase.http import route, runtime_of
from chimpbase.http.edge import HttpEdge
from tests.http.serving import Serve, error_of, forget, place, read, request, shop
from tests.running import Start, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_running_with_http_serves_until_it_stops(start: Start) -> None:
    app = shop()
    async with start(app, http=True, port=0) as runtime:
        assert runtime.address
        assert runtime.address.startswith("http://127.0.0.1:")
        async with httpx2.AsyncClient(base_url=runtime.address, trust_env=False) as client:
            assert (await client.get("/orders/3")).json()["id"] == 3
            address = runtime.address
            # this connection is alive and idle when the server stops
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{address}/health", trust_env=False)


async def test_without_http_nothing_is_served(start: Start) -> None:
    async with start(shop(), port=0) as runtime:
        assert runtime.address is None


async def test_a_taken_port_is_one_sentence_with_the_next_move(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.ConfigError, match=rf"^Port {port} is taken on 127.0.0.1\. .* use --port") as caught:
            async with start(shop(), http=True, port=port):
                pass
        assert (caught.value.key, caught.value.__cause__) == ("port", None)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
async def test_a_host_that_is_not_this_machine_is_one_sentence(start: Start, host: str) -> None:
    with pytest.raises(errors.ConfigError, match=host) as caught:
        async with start(shop(), http=True, port=0, host=host):
            pass
    assert caught.value.key == "host"


async def test_localhost_is_served_on_one_port_of_every_family(start: Start) -> None:
    async with start(shop(), http=True, port=0, host="localhost") as runtime:
        async with httpx2.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{runtime.address}/health")).json() == {"ok": True}


async def test_a_stop_lets_a_request_in_progress_end(serve: Serve, outside: asyncpg.Connection) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    @action
    async def slow(ctx: Ctx) -> str:
        await ctx.db.execute("insert into ledger values ('slow', 'done')")
        inside.set()
        await go_on.wait()
        return "done"

    async with serve(shop(route.get("/slow", slow)), grace=timedelta(seconds=10)) as served:
        kept = await served.client.get("/health")
        assert kept.is_success
        answer = asyncio.create_task(served.client.get("/slow"))
        await inside.wait()
        stopping = asyncio.create_task(served.edge.stop())
        await until(lambda: refuses(served.place))
        assert not stopping.done()
        go_on.set()
        assert (await answer).json() == "done"
        await stopping
        assert await notes(outside) == ["done"]


async def test_a_client_that_goes_away_leaves_nothing_half_done(serve: Serve, outside: asyncpg.Connection) -> None:
    inside, go_on, left = asyncio.Event(), asyncio.Event(), list[str]()

    @action
    async def two(ctx: Ctx) -> None:
        try:
            await ctx.db.execute("insert into ledger values ('two', 'first')")
            inside.set()
            await go_on.wait()
            await ctx.db.execute("insert into ledger values ('two', 'second')")
        finally:
            left.append("left")

    async with serve(shop(route.post("/two", two))) as served:
        _, writer = await served.connect()
        writer.write(request("POST", "/two"))
        await inside.wait()
        writer.transport.abort()
        assert (await served.client.get("/health")).is_success
        go_on.set()
        await until(lambda: left)
    # the edge has stopped: whatever it did with the request is done
    assert await notes(outside) in ([], ["first", "second"])


async def test_the_end_of_the_grace_takes_back_and_tells_the_client(serve: Serve, outside: asyncpg.Connection) -> None:
    inside = asyncio.Event()

    @action
    async def stuck(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('stuck', 'x')")
        inside.set()
        await asyncio.Event().wait()

    async with serve(shop(route.get("/stuck", stuck)), grace=timedelta(seconds=0.2)) as served:
        answer = asyncio.create_task(served.client.get("/stuck"))
        await inside.wait()
        await served.edge.stop()
        response = await answer
        assert (response.status_code, error_of(response)["type"]) == (503, "Stopped")
        assert await notes(outside) == []


async def test_a_client_that_does_nothing_cannot_hold_up_the_stop(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def flood(request: Request) -> Response:
        async def endless() -> AsyncGenerator[bytes]:
            while True:
                yield b"x" * 65536

        return StreamingResponse(endless())

    async with serve(shop(route.plain(Route("/flood", flood))), grace=timedelta(seconds=0.3)) as served:
        kept = []
        for sent in (b"", b"GET /hea", request("POST", "/orders", b"{" * 10)[:-5], request("GET", "/flood")):
            reader, writer = await served.connect()
            writer.write(sent)
            await writer.drain()
            kept.append((reader, writer))
        await kept[-1][0].readexactly(100_000)
        began = asyncio.get_running_loop().time()
        await served.edge.stop()
        assert asyncio.get_running_loop().time() - began < 3
        for _, writer in kept:
            writer.close()
    assert [one for one in caplog.records if one.name.startswith("uvicorn")] == []


async def test_a_stop_is_idempotent_and_a_failed_start_can_be_stopped(serve: Serve, start: Start) -> None:
    async with serve(shop()) as served:
        await served.edge.stop()
        await served.edge.stop()
        await HttpEdge(served.runtime, []).stop()


async def test_health_and_ready(serve: Serve, outside: asyncpg.Connection, dsn: str) -> None:
    async with serve(shop()) as served:
        get = served.client.get
        assert ((await get("/health")).json(), (await get("/ready")).json()) == ({"ok": True}, {"ok": True})
        assert (await served.client.head("/ready")).status_code == 200
        assert (await served.client.post("/health")).status_code == 405

        await outside.execute(
            "insert into chimpbase.migration select (jsonb_populate_record(m, '{\"number\": 9999}')).* "
            "from chimpbase.migration as m limit 1"
        )
        newer = await get("/ready")
        assert (newer.status_code, newer.json()["ok"]) == (503, False)
        assert "schema" in newer.json()["reason"]
        assert (await get("/health")).status_code == 200


async def test_ready_says_no_without_a_database(serve: Serve, outside: asyncpg.Connection, server_dsn: str) -> None:
    elsewhere = await asyncpg.connect(server_dsn)
    async with serve(shop()) as served:
        name = await outside.fetchval("select current_database()")
        await elsewhere.execute(f"alter database {name} allow_connections false")
        await outside.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        response = await served.client.get("/ready")
        assert response.status_code == 503
        assert str(name) not in response.text
        assert (await served.client.get("/health")).json() == {"ok": True}
        await elsewhere.execute(f"alter database {name} allow_connections true")
        await elsewhere.close()

        async def ready() -> bool:
            return (await served.client.get("/ready")).is_success

        await until(ready)


async def test_plain_routes_and_websockets_reach_the_running_app(serve: Serve, outside: asyncpg.Connection) -> None:
    async def plain(request: Request) -> Response:
        assert request.app.state.chimpbase is runtime_of(request) is request.state.chimpbase
        order: Any = await runtime_of(request).call(read, order_id=4)
        return JSONResponse({"id": order.id, "trace": request.state.trace_id})

    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await runtime_of(websocket).call(forget, order_id=int(text))
            await websocket.send_text(f"forgot {text}")

    app = shop(route.plain(Route("/plain", plain)), route.websocket("/chat/{room}", chat))
    async with serve(app) as served:
        response = await served.client.get("/plain")
        assert response.json() == {"id": 4, "trace": response.headers["x-trace-id"]}
        host, port = served.place
        async with connect(f"ws://{host}:{port}/chat/1") as websocket:
            await websocket.send("7")
            assert await websocket.recv() == "forgot 7"
        assert await notes(outside) == ["7"]


async def test_a_mounted_app_lives_with_the_server(serve: Serve) -> None:
    lived: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, str]]:
        lived.append("up")
        yield {"greeting": "hello"}
        lived.append("down")

    async def index(request: Request) -> Response:
        order: Any = await request.app.state.chimpbase.call(read, order_id=9)
        assert runtime_of(request) is request.app.state.chimpbase
        return JSONResponse([request.state.greeting, order.id])

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await JSONResponse(runtime_of(scope).app.name)(scope, receive, send)

    inner = Starlette(routes=[Route("/index", index)], lifespan=lifespan)
    async with serve(shop(route.mount("/api", inner), route.mount("/bare", bare))) as served:
        assert lived == ["up"]
        assert (await served.client.get("/api/index")).json() == ["hello", 9]
        assert (await served.client.get("/bare/x")).json() == "shop"
        assert (await served.client.get("/api/none")).status_code == 404
    assert lived == ["up", "down"]


async def test_a_mounted_app_that_cannot_start_stops_the_start(start: Start) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        raise RuntimeError("no bank today")
        yield

    with pytest.raises(errors.UsageError, match=r"(?s)mounted at /api failed to start: .*no bank today"):
        async with start(shop(route.mount("/api", Starlette(lifespan=lifespan))), http=True, port=0):
            pass


async def test_middleware_is_around_every_route_but_the_probes(serve: Serve) -> None:
    middleware = route.middleware(TrustedHostMiddleware, allowed_hosts=["shop.test"])
    async with serve(shop(middleware)) as served:
        assert (await served.client.get("/orders/1")).status_code == 400
        assert (await served.client.get("/orders/1", headers={"host": "shop.test"})).status_code == 200
        assert (await served.client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/health/"])
def test_the_paths_of_the_probes_are_reserved(path: str) -> None:
    made = [
        lambda: route.get(path, read_all),
        lambda: route.plain(Route(path, place)),  # type: ignore[arg-type]
        lambda: route.plain(Mount(path, app=Starlette())),
        lambda: route.mount(path, Starlette()),
        lambda: route.websocket(path, print),
    ]
    for make in made:
        with pytest.raises(errors.UsageError, match=rf"{path.rstrip('/')} .*reserved|reserved.*{path.rstrip('/')}"):
            make()


async def test_a_route_that_no_request_can_reach_is_refused(start: Start) -> None:
    async def started(*routes: object) -> None:
        async with start(App("app", register=list(routes)), http=True, port=0):
            pass

    with pytest.raises(
        errors.UsageError, match=r"No request can reach GET /orders/7 -> read_all: GET /orders/\{order_id\} -> read"
    ):
        await started(route.get("/orders/{order_id}", read), route.get("/orders/7", read_all))
    with pytest.raises(errors.UsageError, match=r"takes them all\. Remove one"):
        await started(route.get("/a", read_all), route.get("/a", read_all, status=202))
    await started(
        route.get("/orders/7", read_all), route.get("/orders/{order_id}", read), route.post("/orders/7", read_all)
    )
    with pytest.raises(errors.NotRegistered, match="did you mean 'read_all'"):
        await started(route.get("/a", read_all), route.get("/b", "read_al"))


anything: Any = print


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: route.get("orders", read_all), "begins with a slash"),
        (lambda: route.get("/{}", read_all), "brace without a name"),
        (lambda: route.get("/{a}/{a}", read_all), "cannot be read|has {a}"),
        (lambda: route.get("/a", anything), "needs an action or the name of one"),
        (lambda: route.get("/a", read_all, status=404), "status=404"),
        (lambda: route.plain(anything), "route.plain takes a Starlette route"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused_when_written(make: Any, message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        make()


@action
async def read_all(ctx: Ctx) -> list[int]:
    return []


def refuses(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False
