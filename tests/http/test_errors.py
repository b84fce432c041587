"""Errors: each kind has its status, and what is not the client's fault says nothing of the inside."""

from __future__ import annotations

import logging

import asyncpg
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chimpbase import Ctx, action, errors
from chimpbase.http import HttpError, route, runtime_of
from tests.http.serving import CANARY, Serve, error_of, fail, shop
from tests.running import notes

pytestmark = pytest.mark.anyio

ANSWERS = {
    "bug": (500, "InternalError"),
    "payload": (500, "InternalError"),
    "usage": (500, "InternalError"),
    "secret": (500, "InternalError"),
    "query": (500, "InternalError"),
    "missing": (404, "NotFound"),
    "conflict": (409, "Conflict"),
    "started": (409, "AlreadyStarted"),
    "unique": (409, "UniqueViolation"),
    "unreachable": (503, "Unreachable"),
    "full": (503, "StorageFull"),
    "timeout": (503, "StatementTimeout"),
    "serialization": (503, "SerializationConflict"),
    "unknown": (503, "OutcomeUnknown"),
    "own": (418, "ImATeapot"),
}


async def test_each_error_has_its_status_and_takes_the_transaction_back(
    serve: Serve, outside: asyncpg.Connection
) -> None:
    async with serve(shop()) as served:
        for how, (status, kind) in ANSWERS.items():
            response = await served.client.post(f"/fail/{how}")
            assert (response.status_code, error_of(response)["type"]) == (status, kind), how
            assert CANARY not in response.text + str(response.headers), how
        assert await notes(outside) == []


async def test_only_what_stored_nothing_is_worth_a_retry(serve: Serve) -> None:
    async with serve(shop()) as served:
        for how in ("unreachable", "full", "timeout", "serialization"):
            assert (await served.client.post(f"/fail/{how}")).headers["retry-after"] == "1"
        unknown = await served.client.post("/fail/unknown")
        assert "retry-after" not in unknown.headers
        assert "Look before you repeat it" in error_of(unknown)["message"]


async def test_an_internal_error_names_its_trace_and_the_log_has_the_rest(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(shop()) as served:
        response = await served.client.post("/fail/bug")
    (record,) = [one for one in caplog.records if one.name == "chimpbase.http" and one.levelno == logging.ERROR]
    assert record.exc_info
    assert CANARY in str(record.exc_info[1])
    assert error_of(response)["trace"] == response.headers["x-trace-id"] == record.data["trace"]  # type: ignore[attr-defined]
    assert not [one for one in caplog.records if one.name.startswith("uvicorn")]


async def test_an_exit_in_an_action_is_an_internal_error_and_the_server_goes_on(
    serve: Serve, outside: asyncpg.Connection
) -> None:
    @action
    async def leave(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('leave', 'never')")
        raise SystemExit(3)

    async with serve(shop(leave, route.post("/leave", leave))) as served:
        for _ in range(2):
            response = await served.client.post("/leave")
            assert (response.status_code, error_of(response)["type"]) == (500, "InternalError")
        assert await notes(outside) == []


async def test_an_action_answers_with_a_status_of_its_own(serve: Serve) -> None:
    async with serve(shop()) as served:
        response = await served.client.post("/fail/own")
        assert (error_of(response)["message"], response.headers["x-tea"]) == ("I am a teapot.", "green")
    with pytest.raises(errors.UsageError, match="a status from 400 to 599, not 200"):
        HttpError(200)


async def test_a_result_that_does_not_fit_its_type_is_not_committed(serve: Serve, outside: asyncpg.Connection) -> None:
    async with serve(shop()) as served:
        response = await served.client.post("/misreport")
        assert (response.status_code, CANARY in response.text) == (500, False)
        assert await notes(outside) == []


async def test_a_plain_route_gets_the_same_answers(serve: Serve, outside: asyncpg.Connection) -> None:
    async def call(request: Request) -> Response:
        await runtime_of(request).call(fail, request.path_params["how"])
        return Response()

    async with serve(shop(route.plain(Route("/plain/{how}", call, methods=["POST"])))) as served:
        for how, (status, kind) in ANSWERS.items():
            response = await served.client.post(f"/plain/{how}")
            assert (response.status_code, error_of(response)["type"]) == (status, kind), how
            assert CANARY not in response.text
        assert await notes(outside) == []


async def test_a_request_is_one_line_in_the_log_without_its_query(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chimpbase.http")
    async with serve(shop()) as served:
        await served.client.get("/search?sku=" + CANARY)
        await served.client.get("/health")
        await served.raw(b"GET /a%0Ab\x1b[31m HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    lines = [one for one in caplog.records if one.name == "chimpbase.http"]
    assert [one.getMessage().rsplit(" in ", 1)[0] for one in lines][:1] == ["GET /search 422"]
    assert lines[0].data["status"] == 422  # type: ignore[attr-defined]
    assert set(lines[0].data) == {"method", "path", "status", "ms", "trace"}  # type: ignore[attr-defined]
    assert all(line.getMessage().isprintable() and CANARY not in line.getMessage() for line in lines)
