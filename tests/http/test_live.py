"""The tail of a stream over HTTP: every entry once, also for who comes back, and an end when it is time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from starlette.requests import Request

from chimpbase import App, Ctx, Stream, errors
from chimpbase._app import stream_reading
from chimpbase.http import HttpError, route
from chimpbase.http.limits import Limits
from tests.http.serving import Serve, Served, error_of
from tests.waiting import until

pytestmark = pytest.mark.anyio
logins = Stream("logins", dict)


class Reader:
    """An EventSource: what it was sent, and the id it would come back with."""

    def __init__(self) -> None:
        self.data: list[Any] = []
        self.comments = 0
        self.last_id: str | None = None
        self.ended = False
        self.head = b""

    async def read(self, stream: asyncio.StreamReader) -> None:
        self.head = await stream.readuntil(b"\r\n\r\n")
        text = ""
        while size := int(await stream.readline(), 16):
            text += (await stream.readexactly(size + 2))[:-2].decode()
            *blocks, text = text.split("\n\n")
            for block in blocks:
                self._take(block)
        self.ended = True

    def _take(self, block: str) -> None:
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "id":
                self.last_id = value
            elif field == "data":
                self.data.append(json.loads(value))
            else:
                assert line == ":"
                self.comments += 1


@asynccontextmanager
async def reading(served: Served, path: str = "/logins", *headers: str) -> AsyncGenerator[Reader]:
    stream, writer = await served.connect()
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", "host: test", *headers, "", ""]).encode())
    reader = Reader()
    task = asyncio.create_task(reader.read(stream))
    try:
        await until(lambda: reader.last_id is not None or reader.comments or task.done(), deadline_s=10)
        yield reader
    finally:
        writer.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_entries_are_sent_as_they_are_committed(serve: Serve) -> None:
    app = App("site", register=[route.stream("/logins", logins)])
    async with serve(app) as served:
        await app.ctx.stream.append(logins, {"n": 0})
        async with reading(served) as one, reading(served) as other:
            for n in (1, 2, 3):
                await app.ctx.stream.append(logins, {"n": n, "text": "a\nb: c\n\n"})
            await until(lambda: len(one.data) == len(other.data) == 3, deadline_s=10)
    assert [each["n"] for each in one.data] == [1, 2, 3]
    assert one.data[0]["text"] == "a\nb: c\n\n"
    assert b"text/event-stream" in one.head
    assert b"no-store" in one.head


async def test_who_comes_back_has_missed_nothing(serve: Serve) -> None:
    app = App("site", register=[route.stream("/logins", logins)])
    async with serve(app) as served:
        async with reading(served) as first:
            pass
        await app.ctx.stream.append(logins, {"n": 1})  # it was cut off before the first entry
        async with reading(served, "/logins", f"Last-Event-ID: {first.last_id}") as second:
            await until(lambda: second.data, deadline_s=10)
        await app.ctx.stream.append_many(logins, [{"n": 2}, {"n": 3}])
        async with reading(served, f"/logins?after={second.last_id}") as third:
            await until(lambda: len(third.data) == 2, deadline_s=10)
        async with reading(served, "/logins?since=2020-01-01T00:00:00%2B00:00") as fourth:
            await until(lambda: len(fourth.data) == 3, deadline_s=10)
    assert [one["n"] for one in second.data + third.data] == [1, 2, 3]


async def test_a_request_may_say_which_stream_it_is_and_be_refused(serve: Serve) -> None:
    async def own(request: Request) -> str:
        if request.headers.get("x-user") != request.path_params["user"]:
            raise HttpError(403, "It is not yours.")
        return f"user.{request.path_params['user']}"

    app = App("site", register=[route.stream("/users/{user}", own)])
    async with serve(app) as served:
        async with reading(served, "/users/ada", "x-user: ada") as reader:
            await app.ctx.stream.append("user.bob", {"n": 1})
            await app.ctx.stream.append("user.ada", {"n": 2})
            await until(lambda: reader.data, deadline_s=10)
        refused = await served.client.get("/users/ada", headers={"x-user": "bob"})
    assert reader.data == [{"n": 2}]
    assert refused.status_code == 403


@pytest.mark.parametrize(
    ("path", "status"), [("/logins?after=s1", 422), ("/logins?since=yesterday", 422), ("/logins?since=2026-01-01", 422)]
)
async def test_what_is_no_place_is_refused(serve: Serve, path: str, status: int) -> None:
    async with serve(App("site", register=[route.stream("/logins", logins)])) as served:
        refused = await served.client.get(path)
        assert refused.status_code == status
        assert error_of(refused)["type"] == "PayloadError"
        assert (await served.client.post("/logins")).status_code == 405
        assert (await served.client.head("/logins")).headers["content-type"].startswith("text/event-stream")


async def test_what_retention_took_is_said(serve: Serve, outside: asyncpg.Connection) -> None:
    app = App("site", register=[route.stream("/logins", logins)])
    async with serve(app) as served:
        await app.ctx.stream.append_many(logins, [{}, {}, {}])
        first = (await app.ctx.stream.read(logins, limit=1))[0]
        await outside.execute("update chimpbase.stream set horizon = 3")
        refused = await served.client.get("/logins", headers={"last-event-id": first.position})
    assert refused.status_code == 410
    assert error_of(refused)["type"] == "EntriesDropped"


async def test_a_quiet_stream_gives_signs_of_life_and_takes_no_room_of_requests(serve: Serve) -> None:
    app = App("site", register=[route.stream("/logins", logins)])

    @app.action
    async def hello(ctx: Ctx) -> str:
        return "hello"

    app.register(route.get("/hello", hello))
    async with serve(app, limits=Limits(live_quiet_s=0.02, requests=1, live=2)) as served:
        async with reading(served) as one, reading(served) as other:
            await until(lambda: one.comments > 2 and other.comments > 2, deadline_s=10)
            assert (await served.client.get("/hello")).json() == "hello"
            assert (await served.client.get("/logins")).status_code == 503
        async with reading(served) as again:
            assert again.last_id is not None


async def test_a_reader_that_has_left_is_not_kept(serve: Serve) -> None:
    app = App("site", register=[route.stream("/logins", logins)])
    async with serve(app) as served:
        tails: Any = served.runtime._backstage.engine.tails  # type: ignore[union-attr]
        async with reading(served), reading(served):
            await until(lambda: len(tails._listeners) == 2, deadline_s=10)
        await until(lambda: not tails._listeners, deadline_s=10)


async def test_a_stop_of_the_server_ends_every_reader_at_once(serve: Serve) -> None:
    app = App("site", register=[route.stream("/logins", logins)])
    async with serve(app, grace=60) as served, reading(served) as reader:
        async with asyncio.timeout(10):  # the grace is a minute
            await served.edge.stop()
        await until(lambda: reader.ended, deadline_s=10)


async def test_a_reader_is_cut_off_when_the_database_fails_and_may_come_back(
    serve: Serve, outside: asyncpg.Connection
) -> None:
    app = App("site", register=[route.stream("/logins", logins)])
    async with serve(app) as served:
        async with reading(served) as reader:
            await app.ctx.stream.append(logins, {"n": 1})
            await until(lambda: reader.data, deadline_s=10)
            await outside.execute("alter table chimpbase.entry rename to away")
            await until(lambda: reader.ended, deadline_s=10)
            await outside.execute("alter table chimpbase.away rename to entry")
        await app.ctx.stream.append(logins, {"n": 2})
        async with reading(served, "/logins", f"Last-Event-ID: {reader.last_id}") as back:
            await until(lambda: back.data, deadline_s=10)
    assert back.data == [{"n": 2}]


def test_what_is_no_stream_is_refused() -> None:
    wrong: Any
    for wrong in (7, None):
        with pytest.raises(errors.UsageError, match="needs a stream"):
            route.stream("/logins", wrong)
    for path, stream in (("logins", "a"), ("/health", "a"), ("/a", "no name!")):
        with pytest.raises(errors.UsageError):
            route.stream(path, stream)


async def test_a_process_that_only_serves_hears_of_the_entries_of_others(
    serve: Serve, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no look by itself: what is told comes from the notification
    monkeypatch.setattr(stream_reading, "_LOOK_S", 1000.0)
    writer, app = App("writer", register=[logins]), App("site", register=[route.stream("/logins", logins)])
    async with (
        serve(app, workers=False, http=True) as served,
        writer.running(database_url=dsn, project=tmp_path, workers=False),
        reading(served) as reader,
    ):
        engine: Any = served.runtime._backstage.engine  # type: ignore[union-attr]
        await until(lambda: engine._listener.connected, deadline_s=10)
        await writer.ctx.stream.append(logins, {"n": 1})
        await until(lambda: reader.data, deadline_s=10)
    assert reader.data == [{"n": 1}]
