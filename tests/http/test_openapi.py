"""OpenAPI: the document says what the routes take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from chimpbase import Ctx, action
from chimpbase.http import route
from tests.http.serving import Serve, shop

pytestmark = pytest.mark.anyio


def elsewhere() -> type[Any]:
    @dataclass
    class Order:
        other: str

    return Order


Other = elsewhere()


@action
async def annotate(ctx: Ctx, order_id: int, order: Other, note: str = "") -> Other:  # type: ignore[valid-type]
    """Annotate <b>an</b> order.

    It may be done twice.
    """
    return order


async def test_the_document_describes_every_route_to_an_action(serve: Serve) -> None:
    async with serve(shop(route.post("/orders/{order_id:int}/notes", annotate))) as served:
        document = (await served.client.get("/openapi.json")).json()
    paths = document["paths"]
    assert sorted(paths) == [
        "/fail/{how}",
        "/misreport",
        "/orders",
        "/orders/{id}",
        "/orders/{order_id}",
        "/orders/{order_id}/name",
        "/orders/{order_id}/notes",
        "/search",
    ]
    placed = paths["/orders"]["post"]
    assert placed["requestBody"] == {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewOrder"}}},
    }
    assert "201" in placed["responses"]
    assert "parameters" not in placed
    find = {one["name"]: one for one in paths["/orders"]["get"]["parameters"]}
    assert {name: one["required"] for name, one in find.items()} == {"sku": True, "qty": False, "tags": False}
    assert list(paths["/orders/{order_id}"]["delete"]["responses"]) == ["204", "default"]
    rename = paths["/orders/{order_id}/name"]["post"]
    assert rename["requestBody"]["content"]["application/json"]["schema"]["required"] == ["name"]


async def test_types_of_one_name_are_kept_apart_and_every_reference_leads_somewhere(serve: Serve) -> None:
    async with serve(shop(route.post("/orders/{order_id:int}/notes", annotate))) as served:
        document = (await served.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"Order", "Order_2", "NewOrder", "Error"} == set(schemas)
    assert list(schemas["Order_2"]["properties"]) == ["other"]
    references = set(_references(document))
    assert references == {f"#/components/schemas/{name}" for name in schemas}
    ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))


async def test_the_page_runs_and_fetches_nothing(serve: Serve) -> None:
    async with serve(shop(route.post("/orders/{order_id:int}/notes", annotate))) as served:
        page = await served.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "Annotate &lt;b&gt;an&lt;/b&gt; order." in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text


async def test_an_application_may_have_its_own(serve: Serve) -> None:
    async def own(request: Request) -> Response:
        return PlainTextResponse("mine")

    async with serve(shop(route.plain(Route("/docs", own)))) as served:
        assert (await served.client.get("/docs")).text == "mine"


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return [*own, *(found for one in value.values() for found in _references(one))]
    return [found for one in value for found in _references(one)] if isinstance(value, list) else []
