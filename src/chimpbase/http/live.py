"""Live: the tail of a stream as server-sent events, which browsers read with `EventSource`.

    id: <position>      go on after it: a browser that comes back sends it as Last-Event-ID
    data: <payload>

Invariant: an answer ends when its reader leaves, when the database fails, and at once when the server stops; whoever
comes back with the last id has missed nothing. A connection is held for a read only, never between two.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chimpbase import Entry, Stream, errors
from chimpbase._app.registry import stream_of
from chimpbase.http.answers import Refusal, overloaded
from chimpbase.http.limits import Limits
from chimpbase.http.routes import StreamRoute
from chimpbase.http.scopes import state_of

if TYPE_CHECKING:
    from chimpbase import Runtime

_log = logging.getLogger("chimpbase.http")
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would wait for more
]


class LiveStreams:
    """What all streams of one server have in common: how many are read, and when all end."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.closing = asyncio.Event()
        self.readers = 0


class LiveStream:
    """One route. It is the ASGI application of it."""

    def __init__(self, runtime: Runtime, entry: StreamRoute, live: LiveStreams) -> None:
        self._runtime, self._entry, self._live = runtime, entry, live

    def route(self) -> Route:
        """The Starlette route of it."""
        return Route(self._entry.path, self, methods=["GET"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        token = await self._token(request)
        after, since = _start(request)
        if self._live.readers >= self._live.limits.live or self._live.closing.is_set():
            await overloaded()(scope, receive, send)
            return
        self._live.readers += 1
        # it lasts as long as its reader likes, so it must not take the room of requests
        state_of(scope)["leave"]()
        try:
            place = await self._place(token, after, since)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if request.method == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            entries = self._runtime.ctx.stream.tail(token, after=place, since=None if place else since)
            await self._answer(entries, place, token, receive, send)
        finally:
            self._live.readers -= 1

    async def _token(self, request: Request) -> Stream[Any]:
        given: Any = self._entry.stream
        if callable(given):
            given = given(request)
            if isawaitable(given):
                given = await given
        return stream_of(self._runtime.app.registry, given)

    async def _place(self, token: Stream[Any], after: str | None, since: datetime | None) -> str | None:
        """Where to begin; what cannot be is refused before the answer begins."""
        try:
            if after is not None:
                await self._runtime.ctx.stream.read(token, after=after, limit=1)
                return after
        except errors.EntriesDropped as error:
            raise Refusal(410, str(error), kind="EntriesDropped") from error
        except errors.PayloadError as error:
            if error.subject != "position":
                return after  # an entry that cannot be read: the reader is told of it when its turn comes
            raise Refusal(422, str(error), kind="PayloadError", place="header") from error
        return None if since is not None else await self._runtime.ctx.stream.position(token)

    async def _answer(
        self, entries: AsyncGenerator[Entry[Any]], place: str | None, token: Stream[Any], receive: Receive, send: Send
    ) -> None:
        line = asyncio.Lock()

        async def say(text: str) -> None:
            async with line:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        # an id without data: who is cut off before the first entry comes back to this place
        await say(f"id: {place}\n\n" if place is not None else ":\n\n")
        parts: list[asyncio.Task[Any]] = [
            asyncio.create_task(_tell(entries, token, say), name="live stream"),
            asyncio.create_task(_keep_alive(say, self._live.limits.live_quiet_s)),
            asyncio.create_task(_departure(receive)),
            asyncio.create_task(self._live.closing.wait()),
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in parts:
                one.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        if not parts[2].cancelled():
            return  # the reader has left
        told = parts[0]
        if not told.cancelled() and (error := told.exception()) is not None:
            _log.warning("a live reader of stream %r is cut off and may come back: %s", token.name, error)
        await send({"type": "http.response.body", "body": b""})


async def _tell(entries: AsyncGenerator[Entry[Any]], token: Stream[Any], say: Any) -> None:
    async with aclosing(entries):
        async for one in entries:
            payload = token.codec.encode(one.payload, subject=f"payload of stream {token.name!r}")
            await say(f"id: {one.position}\ndata: {payload}\n\n")


async def _keep_alive(say: Any, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await say(":\n\n")


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(request: Request) -> tuple[str | None, datetime | None]:
    """What a reader asks for: the id it has seen last, or a position or an instant in the query."""
    after = request.headers.get("last-event-id") or request.query_params.get("after")
    since = request.query_params.get("since")
    if after or since is None:
        return after or None, None
    try:
        instant = datetime.fromisoformat(since)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        message = f"since: {since[:40]!a} is no instant with a time zone, such as 2026-11-23T09:00:00Z."
        raise Refusal(422, message, kind="PayloadError", path="$.since", place="query")
    return None, instant
