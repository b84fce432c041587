"""Actions over HTTP: what fills their parameters, and how their results come back."""

from __future__ import annotations

import asyncpg
import pytest

from chimpbase import Ctx, action
from chimpbase.http import route
from tests.http.serving import Serve, chunks, error_of, shop
from tests.running import notes

pytestmark = pytest.mark.anyio


async def test_the_body_is_the_object_and_the_answer_comes_after_the_commit(
    serve: Serve, outside: asyncpg.Connection
) -> None:
    async with serve(shop()) as served:
        response = await served.client.post("/orders", json={"sku": "tea", "qty": 2, "unknown": 1})
        assert (response.status_code, response.json()) == (201, {"id": 1, "sku": "tea", "qty": 2})
        assert response.headers["content-type"] == "application/json"
        assert await notes(outside) == ["tea"]


async def test_members_come_from_the_body_and_the_rest_from_path_and_query(
    serve: Serve, outside: asyncpg.Connection
) -> None:
    async with serve(shop()) as served:
        post = served.client.post
        by_body = await post("/orders/7/name", json={"name": "a", "loud": True})
        by_query = await post("/orders/7/name?name=a&loud=true")
        mixed = await post("/orders/7/name?loud=1", json={"name": "a"})
        assert [one.json() for one in (by_body, by_query, mixed)] == [{"id": 7, "name": "A"}] * 3
        twice = await post("/orders/7/name?name=a", json={"name": "b"})
        assert (twice.status_code, error_of(twice)["path"]) == (422, "$.name")
        assert len(await notes(outside)) == 3


async def test_beside_an_object_the_query_string_fills_the_rest(serve: Serve) -> None:
    async with serve(shop()) as served:
        response = await served.client.put("/orders/7?dry=true", json={"sku": "tea"})
        assert response.json() == [7, {"sku": "tea", "qty": 1, "tags": []}, True]


async def test_without_a_body_the_query_string_is_the_object(serve: Serve) -> None:
    async with serve(shop()) as served:
        get = served.client.get
        assert (await get("/orders?sku=tea&qty=3&tags=a&utm_source=x")).json() == {
            "sku": "tea",
            "qty": 3,
            "tags": ["a"],
        }
        assert (await get("/search?sku=1&tag=a")).json() == ["1", ["a"], None]
        assert (await get("/search?sku=1&tag=a&tag=b&limit=5")).json() == ["1", ["a", "b"], 5]


async def test_a_plain_function_answers_too(serve: Serve) -> None:
    async with serve(shop()) as served:
        assert (await served.client.get("/orders/5")).json() == {"id": 5, "sku": "tea", "qty": 1}


async def test_no_result_is_204_without_a_body(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop()) as served:
        response = await served.client.delete("/orders/5")
        assert (response.status_code, response.content) == (204, b"")
        assert await notes(outside) == ["5"]


async def test_an_action_may_be_routed_by_name_and_be_registered_elsewhere(serve: Serve) -> None:
    @action
    async def greet(ctx: Ctx, who: str, trace: str = "-", action: str = "-") -> list[str]:
        return [who, trace, action]

    async with serve(shop(greet, route.get("/greet", "greet"), route.post("/greet", greet))) as served:
        # the names of its parameters are those of nobody else
        assert (await served.client.get("/greet?who=a&trace=b&action=c")).json() == ["a", "b", "c"]
        assert (await served.client.post("/greet", json={"who": "a"})).json() == ["a", "-", "-"]


async def test_head_is_get_without_a_body(serve: Serve) -> None:
    async with serve(shop()) as served:
        head, get = await served.client.head("/orders/5"), await served.client.get("/orders/5")
        assert (head.status_code, head.content, head.headers["content-length"]) == (
            200,
            b"",
            get.headers["content-length"],
        )


async def test_other_methods_are_405_and_options_lists_them(serve: Serve) -> None:
    async with serve(shop()) as served:
        wrong = await served.client.post("/orders/5", json={})
        assert (wrong.status_code, error_of(wrong)["type"]) == (405, "MethodNotAllowed")
        # one path, although two routes gave its parameter different names
        assert wrong.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PUT"
        options = await served.client.options("/orders/5")
        assert (options.status_code, options.headers["allow"]) == (204, wrong.headers["allow"])


async def test_an_unknown_path_is_404(serve: Serve) -> None:
    async with serve(shop()) as served:
        response = await served.client.get("/nothing%0a?secret=1")
        assert response.status_code == 404
        assert error_of(response) == {"type": "NotFound", "message": "There is nothing at /nothing%0a."}


async def test_the_trace_of_the_request_is_the_trace_of_the_action(serve: Serve) -> None:
    @action
    async def trace(ctx: Ctx) -> str:
        return ctx.trace_id

    given = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with serve(shop(route.get("/trace", trace))) as served:
        headers = {"traceparent": f"00-{given}-00f067aa0ba902b7-01"}
        response = await served.client.get("/trace", headers=headers)
        assert response.json() == given == response.headers["x-trace-id"]
        assert response.headers["traceparent"].startswith(f"00-{given}-")
        for bad in ("", "00-xyz", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"ff-{given}-00f067aa0ba902b7-01"):
            made = (await served.client.get("/trace", headers={"traceparent": bad})).json()
            assert len(made) == 32
            assert made not in (given, "0" * 32)


async def test_a_body_without_a_length_is_read(serve: Serve) -> None:
    async with serve(shop()) as served:
        response = await served.client.post(
            "/orders", content=chunks(b'{"sku"', b': "t', b'ea"}'), headers={"content-type": "application/json"}
        )
        assert (response.status_code, response.json()["sku"]) == (201, "tea")
