"""Bad input: what a client gets for it, and that nothing of it is stored."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimpbase import Ctx, action
from chimpbase.http import route
from tests.http.serving import Serve, error_of, request, shop, status_of
from tests.running import Start, notes

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}

# body of POST /orders, which takes {"sku": str, "qty": int, "tags": [str]}: status, JSON path
BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "$"),
    (b"{", 400, "$"),
    (b"nope", 400, "$"),
    (b'{"sku": "a"} x', 400, "$"),
    (b'\xef\xbb\xbf{"sku": "a"}', 400, "$"),
    (b'{"sku": "\xff"}', 400, "$"),
    (b'{"sku": "a", "sku": "b"}', 400, "$"),
    (b'{"sku": "a", "qty": NaN}', 400, "$"),
    (b'{"sku": "a", "qty": Infinity}', 400, "$"),
    (b'{"sku": "a", "qty": 9223372036854775808}', 400, "$"),
    (b'{"sku": "a", "qty": ' + b"9" * 5000 + b"}", 400, "$"),
    (b"[" * 200 + b"]" * 200, 400, "$"),
    (b"[" * 200_000, 400, "$"),
    (b"{}", 422, "$"),
    (b"[]", 422, "$"),
    (b"null", 422, "$"),
    (b'"text"', 422, "$"),
    (b'{"sku": 1}', 422, "$.sku"),
    (b'{"sku": null}', 422, "$.sku"),
    (b'{"sku": "a", "qty": "2"}', 422, "$.qty"),
    (b'{"sku": "a", "qty": 1.5}', 422, "$.qty"),
    (b'{"sku": "a", "qty": true}', 422, "$.qty"),
    (b'{"sku": "a", "qty": 1e400}', 422, "$.qty"),
    (b'{"sku": "a", "tags": ["b", 3]}', 422, "$.tags[1]"),
    (b'{"sku": "a\\u0000"}', 422, "$.sku"),
    (b'{"sku": "a", "tags": ["\\ud800"]}', 422, "$.tags[0]"),
]

# method and URL: status, JSON path, where
URLS: list[tuple[str, str, int, str | None, str | None]] = [
    ("GET", "/orders/abc", 422, "$.order_id", "path"),
    ("GET", "/orders/1.5", 422, "$.order_id", "path"),
    ("GET", "/orders/9223372036854775808", 422, "$.order_id", "path"),
    ("POST", "/fail/a%00b", 422, "$.how", "path"),
    ("GET", "/search?tag=a", 422, "$.sku", "query"),
    ("GET", "/search?sku=a&tag=b&limit=", 422, "$.limit", "query"),
    ("GET", "/search?sku=a&tag=b&limit=x", 422, "$.limit", "query"),
    ("GET", "/search?sku=a&sku=b&tag=c", 422, "$.sku", "query"),
    ("GET", "/search?sku=%00&tag=c", 422, "$.sku", "query"),
    ("GET", "/search?sku=%ff&tag=c", 400, None, "query"),
    ("GET", "/search?" + "&" * 2000 + "sku=a", 400, None, "query"),
    ("GET", "/orders", 422, "$", "query"),
    ("GET", "/orders?sku=a&qty=x", 422, "$.qty", "query"),
    ("POST", "/orders/1/name", 422, "$.name", "body"),
]


async def test_a_bad_body_gets_its_status_and_path_and_stores_nothing(
    serve: Serve, outside: asyncpg.Connection
) -> None:
    async with serve(shop()) as served:
        for body, status, path in BODIES:
            response = await served.client.post("/orders", content=body, headers=JSON)
            error = error_of(response)
            assert (response.status_code, error["path"], error["in"]) == (status, path, "body"), (body[:60], error)
            assert error["type"] == "PayloadError"
        assert await notes(outside) == []


async def test_a_bad_url_gets_its_status_and_path_and_stores_nothing(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop()) as served:
        for method, url, status, path, place in URLS:
            response = await served.client.request(method, url)
            error = error_of(response)
            assert (response.status_code, error.get("path"), error.get("in")) == (status, path, place), (
                url[:60],
                error,
            )
        assert await notes(outside) == []


async def test_members_that_are_no_object_are_422(serve: Serve) -> None:
    async with serve(shop()) as served:
        for body in (b"[]", b"3", b'"name"', b"null", b"true"):
            response = await served.client.post("/orders/1/name", content=body, headers=JSON)
            assert (response.status_code, error_of(response)["path"]) == (422, "$"), body


async def test_only_json_is_taken(serve: Serve) -> None:
    async with serve(shop()) as served:
        taken = [
            "application/json",
            "application/json; charset=utf-8",
            'Application/JSON; Charset="UTF-8"',
            "application/problem+json",
        ]
        refused = [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin-1",
            "x" * 500,
        ]
        body = b'{"sku": "a"}'
        for given_type in taken:
            assert (await served.client.post("/orders", content=body, headers={"content-type": given_type})).is_success
        for given_type in refused:
            response = await served.client.post("/orders", content=body, headers={"content-type": given_type})
            assert (response.status_code, error_of(response)["type"]) == (415, "UnsupportedMediaType"), given_type
        bare, _ = await served.raw(
            b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
        )
        assert bare == 415
        squeezed = await served.client.post("/orders", content=body, headers={**JSON, "content-encoding": "gzip"})
        assert squeezed.status_code == 415


async def test_requests_that_are_not_http_are_refused(serve: Serve, outside: asyncpg.Connection) -> None:
    body = b'{"sku": "a"}'
    head = b"POST /orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n"
    smuggled = [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nx\0y: b\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        head + b"content-length: 12\r\ntransfer-encoding: chunked\r\n\r\n" + body,
        head + b"content-length: 12\r\ncontent-length: 13\r\n\r\n" + body,
        head + b"content-length: -1\r\n\r\n" + body,
        head + b"content-length: +12\r\n\r\n" + body,
        head + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + body,
        head + b"transfer-encoding: chunked, identity\r\n\r\n" + body,
    ]
    async with serve(shop()) as served:
        for sent in smuggled:
            status, said = await served.raw(sent)
            assert 400 <= status < 500, (sent, said)
            assert b"Traceback" not in said
        assert (await served.client.get("/health")).is_success
        assert await notes(outside) == []


async def test_a_naive_datetime_is_refused_and_an_aware_one_is_taken(serve: Serve) -> None:
    @action
    async def at(ctx: Ctx, when: datetime) -> datetime:
        return when

    async with serve(shop(route.get("/at", at), route.post("/at", at))) as served:
        good, naive = "2026-01-02T03:04:05Z", "2026-01-02T03:04:05"
        assert (await served.client.get("/at", params={"when": good})).json() == good
        assert (await served.client.post("/at", json={"when": good})).json() == good
        assert (await served.client.get("/at", params={"when": naive})).status_code == 422
        assert (await served.client.post("/at", json={"when": naive})).status_code == 422


async def test_an_unannotated_parameter_is_a_query_parameter_as_any_other(serve: Serve) -> None:
    @action
    async def echo(ctx: Ctx, q) -> Any:
        return q

    async with serve(shop(route.get("/echo", echo), route.post("/echo", echo))) as served:
        assert (await served.client.get("/echo?q=1")).json() == "1"
        assert (await served.client.post("/echo", json={"any": ["thing"]})).json() == {"any": ["thing"]}


async def test_whatever_the_bytes_the_answer_is_never_5xx(serve: Serve) -> None:
    documents = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
    bodies = st.binary(max_size=200) | documents.map(lambda value: json.dumps(value).encode())
    bodies |= documents.map(lambda value: json.dumps({"sku": value, "qty": value, "tags": [value]}).encode())
    examples: list[bytes] = []

    @settings(max_examples=150, database=None, deadline=None)
    @given(bodies)
    def collect(body: bytes) -> None:
        examples.append(body)

    collect()
    async with serve(shop()) as served:
        for body in examples:
            response = await served.client.post("/orders", content=body, headers=JSON)
            assert response.status_code in (201, 400, 422), body
            status, _ = await served.raw(request("GET", "/search?sku=") + body)
            assert status < 500


async def test_garbage_on_the_wire_is_never_5xx(serve: Serve) -> None:
    examples: list[bytes] = []

    @settings(max_examples=80, database=None, deadline=None)
    @given(st.binary(min_size=1, max_size=120), st.integers(0, 200))
    def collect(noise: bytes, at: int) -> None:
        sent = bytearray(request("POST", "/orders/1/name?name=a", b'{"loud": true}'))
        examples.append(bytes(sent[:at] + noise + sent[at:]))

    collect()
    async with serve(shop()) as served:
        for sent in examples:
            reader, writer = await served.connect()
            writer.write(sent)
            writer.write_eof()
            try:
                said = await reader.read()
            except ConnectionResetError:
                said = b""
            assert status_of(said) < 500, (sent, said)
            writer.close()


async def test_a_route_that_names_no_parameter_of_its_action_is_refused_when_written(start: Start) -> None:
    @action
    async def show(ctx: Ctx, order_id: int) -> int:
        return order_id

    with pytest.raises(
        Exception, match=r"GET /orders/\{id\} has \{id\} in its path, but .*show .*test_bad_input.py:\d+"
    ):
        route.get("/orders/{id}", show)
