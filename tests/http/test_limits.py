"""Limits: what is too much, too slow or half is cut off, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from chimpbase import Ctx, action
from chimpbase.http import route
from chimpbase.http.limits import Limits
from tests.http.serving import NewOrder, Serve, Served, chunks, error_of, place, request, shop, status_of
from tests.running import notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
HEAD = b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
QUICK = Limits(head_s=0.2, keep_alive_s=1, body_idle_s=0.2, body_s=0.6)


def of_size(size: int) -> bytes:
    body = json.dumps({"sku": ""}).encode()
    return body.replace(b'""', b'"' + b"a" * (size - len(body)) + b'"')


async def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_413(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop(route.post("/small", place, status=201, max_body_bytes=100))) as served:
        post = served.client.post
        assert (await post("/orders", content=of_size(1024 * 1024), headers=JSON)).status_code == 201
        assert (await post("/small", content=of_size(100), headers=JSON)).status_code == 201
        for path, size in (("/orders", 1024 * 1024 + 1), ("/small", 101), ("/orders", 3 * 1024 * 1024)):
            response = await post(path, content=of_size(size), headers=JSON)
            assert (response.status_code, error_of(response)["type"]) == (413, "ContentTooLarge")
        assert len(await notes(outside)) == 2


async def test_a_body_without_a_length_is_limited_while_it_arrives(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop()) as served:
        parts = [b"x" * 65536] * 40
        response = await served.client.post("/orders", content=chunks(*parts), headers=JSON)
        assert response.status_code == 413
        assert await notes(outside) == []


async def test_a_body_without_end_is_cut_off(serve: Serve) -> None:
    async with serve(shop()) as served:
        for path in (b"/orders", b"/nothing"):
            reader, writer = await served.connect()
            writer.write(HEAD.replace(b"/orders", path) + b"transfer-encoding: chunked\r\n\r\n")
            sent = 0
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                while sent < 200 * 1024 * 1024:
                    writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    await writer.drain()
                    sent += 65536
            assert sent < 100 * 1024 * 1024
            reader.feed_eof()
            writer.close()


async def test_a_client_that_asks_first_is_told_before_it_sends(serve: Serve) -> None:
    async with serve(shop()) as served:
        reader, writer = await served.connect()
        writer.write(HEAD + b"expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n")
        assert status_of(await reader.read()) == 413
        writer.close()


async def test_a_body_that_stops_coming_is_408(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop(), limits=QUICK) as served:
        status, said = await served.raw(HEAD + b'content-length: 100\r\n\r\n{"sku": ')
        assert status == 408, said
        assert await notes(outside) == []


async def test_a_body_that_drips_is_408(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop(), limits=QUICK) as served:
        reader, writer = await served.connect()
        writer.write(HEAD + b"content-length: 100000\r\n\r\n")
        answer = asyncio.create_task(_last_words(reader))

        async def drip() -> bool:
            if not answer.done():
                writer.write(b" ")
            return answer.done()

        await until(drip)
        # closing on a client that still sends may reset the connection before it has read the answer
        assert status_of(answer.result()) in (408, 0)
        assert await notes(outside) == []
        writer.close()


async def test_a_plain_route_has_the_same_limits(serve: Serve) -> None:
    async def count(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    routes = [
        route.plain(Route("/count", count, methods=["POST"])),
        route.plain(Route("/many", count, methods=["POST"]), max_body_bytes=2 * 1024 * 1024),
    ]
    async with serve(shop(*routes), limits=QUICK) as served:
        body = b"x" * (1024 * 1024 + 1)
        assert (await served.client.post("/count", content=body)).status_code == 413
        assert (await served.client.post("/many", content=body)).text == str(len(body))
        slow, _ = await served.raw(HEAD.replace(b"/orders", b"/count") + b"content-length: 100\r\n\r\n{")
        assert slow == 408


async def test_a_head_that_is_too_large_is_431(serve: Serve) -> None:
    async with serve(shop()) as served:
        long = b"x" * 40_000
        for sent in (
            b"GET /health HTTP/1.1\r\nhost: a\r\ny: " + long,
            b"GET /health HTTP/1.1\r\nhost: a\r\ny: " + long + b"\r\n\r\n",
            b"GET /" + long + b" HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET /health HTTP/1.1\r\nhost: a\r\n" + b"y: z\r\n" * 10_000,
        ):
            status, _ = await served.raw(sent)
            assert status == 431


async def test_framing_without_a_body_is_cut_off(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop()) as served:
        chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
        for sent in (b"1;" + b"x" * 80_000, b"0\r\n" + b"y: " + b"z" * 80_000):
            reader, writer = await served.connect()
            writer.write(chunked)
            await until(lambda: in_progress(served))
            writer.write(sent)
            assert status_of(await reader.read()) == 431
            writer.close()
            await idle(served)
        one_by_one = b"".join(b"1\r\n%c\r\n" % byte for byte in of_size(20_000))
        status, _ = await served.raw(
            HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + one_by_one + b"0\r\n\r\n"
        )
        assert status == 201


async def test_a_head_that_does_not_come_closes_the_connection(serve: Serve) -> None:
    async with serve(shop(), limits=QUICK) as served:
        for sent in (b"", b"GET /heal", b"\r\n", b"GET /health HTTP/1.1\r\nhost: a\r\nx-slow: "):
            status, said = await served.raw(sent)
            assert (status, said) == (0, b"")
        # after an answer, too
        status, said = await served.raw(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\nGET /hea")
        assert (status, said.count(b"HTTP/1.1")) == (200, 1)


async def test_a_client_that_leaves_mid_body_changes_nothing(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop()) as served:
        for framing in (b"content-length: 14\r\n\r\n", b"transfer-encoding: chunked\r\n\r\ne\r\n"):
            _, writer = await served.connect()
            writer.write(HEAD + framing + b'{"sku": "tea"')
            await writer.drain()
            writer.transport.abort()
        await idle(served)
        assert await notes(outside) == []


async def test_a_client_that_leaves_during_the_action_does_not_half_apply_it(
    serve: Serve, outside: asyncpg.Connection
) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    @action
    async def two(ctx: Ctx, new: NewOrder) -> None:
        await ctx.db.execute("insert into ledger values ('two', 'first')")
        inside.set()
        await go_on.wait()
        await ctx.db.execute("insert into ledger values ('two', 'second')")

    async with serve(shop(route.post("/two", two))) as served:
        _, writer = await served.connect()
        writer.write(request("POST", "/two", b'{"sku": "a"}'))
        await inside.wait()
        writer.transport.abort()
        go_on.set()
        await idle(served)
        assert await notes(outside) == ["first", "second"]


async def test_one_request_too_many_is_503_at_once_and_health_still_answers(serve: Serve) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    @action
    async def hold(ctx: Ctx) -> None:
        inside.set()
        await go_on.wait()

    async with serve(shop(route.get("/hold", hold)), limits=Limits(requests=1)) as served:
        held = asyncio.create_task(served.client.get("/hold"))
        await inside.wait()
        refused = await served.client.get("/orders/1")
        assert (refused.status_code, error_of(refused)["type"], refused.headers["retry-after"]) == (
            503,
            "Overloaded",
            "1",
        )
        assert (await served.client.get("/health")).status_code == 200
        go_on.set()
        assert (await held).status_code == 204
        assert (await served.client.get("/orders/1")).status_code == 200


async def test_slow_connections_keep_nobody_out(serve: Serve) -> None:
    async with serve(shop(), limits=Limits(requests=50)) as served:
        slow = [await served.connect() for _ in range(150)]
        for _, writer in slow:
            writer.write(b"GET /health HTTP/1.1\r\nhost: a\r\nx: ")
        assert (await served.client.get("/orders/1")).status_code == 200
        for _, writer in slow:
            writer.transport.abort()


async def _last_words(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def in_progress(served: Served) -> int:
    server = served.edge._server._server
    assert server is not None
    return len(server.server_state.tasks)


async def idle(served: Served) -> None:
    await until(lambda: not in_progress(served))
