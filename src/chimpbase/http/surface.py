"""Surface: the ASGI application of a running app, whichever server it is behind.

From outside to inside: a trace for the request, its line in the log, `/health` and `/ready`, the limit of requests at
once, then Starlette with the middleware and the routes that were registered.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chimpbase import errors
from chimpbase._app.edges import EdgeEntry
from chimpbase.http.answers import (
    answer_error,
    answer_http_exception,
    error_response,
    json_response,
    overloaded,
    reason_not_ready,
    stopped,
)
from chimpbase.http.body import PatientReceive
from chimpbase.http.limits import Limits
from chimpbase.http.live import LiveStream, LiveStreams
from chimpbase.http.mounts import RunningMount
from chimpbase.http.openapi import description_routes
from chimpbase.http.resource import Resource
from chimpbase.http.routes import (
    ActionRoute,
    MiddlewareEntry,
    MountedApp,
    PlainRoute,
    StreamRoute,
    refuse_unreachable,
)
from chimpbase.http.scopes import header, route_path, shown_path, state_of

if TYPE_CHECKING:
    from chimpbase import Runtime

_log = logging.getLogger("chimpbase.http")

#: Source: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.DOTALL
)


class Surface:
    """The ASGI application of one runtime. It serves between `start` and `stop`."""

    def __init__(
        self,
        runtime: Runtime,
        entries: Sequence[EdgeEntry],
        *,
        limits: Limits,
        new_id: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._runtime, self._limits, self._new_id = runtime, limits, new_id
        self._in_flight = 0
        self._live = LiveStreams(limits)
        self._closing = False
        self._check: asyncio.Task[None] | None = None
        self._rooms = AsyncExitStack()
        self._mounts: list[RunningMount] = []
        self.resources: list[Resource] = []
        self._app = Starlette(
            routes=self._routes(entries),
            middleware=[entry.middleware for entry in entries if isinstance(entry, MiddlewareEntry)],
            exception_handlers={
                HTTPException: answer_http_exception,
                errors.ChimpbaseError: answer_error,
                Exception: answer_error,
            },
        )
        self._app.state.chimpbase = runtime

    async def start(self) -> None:
        """Start the mounted applications."""
        for mount in self._mounts:
            self._rooms.push_async_callback(mount.stop)
            await mount.start()

    def close(self) -> None:
        """From now on `/ready` says no, and the live tails of streams end."""
        self._closing = True
        self._live.closing.set()

    async def stop(self) -> None:
        """Stop the mounted applications. Idempotent."""
        self.close()
        if self._check is not None:
            self._check.cancel()
        await self._rooms.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # a copy: what a host shares between its requests is not ours to change
        scope["state"] = {**scope.get("state", {}), "chimpbase": self._runtime, "trace_id": self._trace(scope)}
        if scope["type"] == "http":
            await _Exchange(scope, send).run(self._respond, receive, span=self._new_id(8))
        else:
            await self._app(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        match route_path(scope):
            case "/health":
                await _probe(scope, json_response({"ok": True}))(scope, receive, send)
            case "/ready":
                await _probe(scope, await self._readiness())(scope, receive, send)
            case _ if self._in_flight >= self._limits.requests:
                await overloaded()(scope, receive, send)
            case _:
                leave = state_of(scope)["leave"] = self._enter()
                try:
                    await self._app(scope, PatientReceive(scope, receive, idle_s=self._limits.body_idle_s), send)
                finally:
                    leave()

    def _enter(self) -> Callable[[], None]:
        """Take the place of one request; the answer gives it back, once."""
        self._in_flight += 1
        inside = True

        def leave() -> None:
            nonlocal inside
            self._in_flight -= inside
            inside = False

        return leave

    def _trace(self, scope: Scope) -> str:
        given = _TRACEPARENT.fullmatch(header(scope, b"traceparent") or b"")
        return given[1].decode() if given else self._new_id(16)

    async def _readiness(self) -> Response:
        if self._closing:
            return json_response({"ok": False, "reason": "The server is stopping."}, status=503)
        # one check for everybody who asks meanwhile: whoever floods /ready must not take the pool
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._runtime.check(), name="readiness")
        check = self._check
        done, _ = await asyncio.wait([check], timeout=self._limits.ready_s)
        error = TimeoutError() if not done or check.cancelled() else check.exception()
        if error is None:
            return json_response({"ok": True})
        _log.log(logging.DEBUG, "not ready", exc_info=error)
        return json_response({"ok": False, "reason": reason_not_ready(error)}, status=503)

    def _routes(self, entries: Sequence[EdgeEntry]) -> list[BaseRoute]:
        actions = [entry for entry in entries if isinstance(entry, ActionRoute)]
        refuse_unreachable(actions)
        routes: list[BaseRoute] = []
        seen: set[str] = set()
        for entry in entries:
            match entry:
                case ActionRoute() if entry.shape not in seen:
                    seen.add(entry.shape)
                    same = [one for one in actions if one.shape == entry.shape]
                    self.resources.append(Resource(self._runtime, same, limits=self._limits))
                    routes.append(self.resources[-1].route())
                case StreamRoute():
                    routes.append(LiveStream(self._runtime, entry, self._live).route())
                case PlainRoute():
                    routes.append(entry.limited())
                case MountedApp():
                    self._mounts.append(RunningMount(entry, self._runtime))
                    routes.append(self._mounts[-1].route())
                case _:
                    pass
        return [*routes, *description_routes(self._runtime.app.name, self.resources)]


class _Exchange:
    """One request and its answer: adds the headers of every answer, and writes the line in the log."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._status: int | None = None
        self._headers: list[tuple[bytes, bytes]] = []

    async def run(self, respond: ASGIApp, receive: Receive, *, span: str) -> None:
        trace = state_of(self._scope)["trace_id"]
        self._headers = [(b"x-trace-id", trace.encode()), (b"traceparent", f"00-{trace}-{span}-01".encode())]
        began = time.perf_counter()
        try:
            await respond(self._scope, receive, self.send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            # only the stop of a server cancels a request
            if self._status is None:
                await stopped()(self._scope, receive, self.send)
            raise
        except Exception:
            # answered and logged further in, unless the answer had begun: then the server cuts it off
            if self._status is None:
                raise
        finally:
            self._report(ms=(time.perf_counter() - began) * 1000)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self._send(message)
        if message.get("more_body", False):
            # a stream that never waits would keep the loop from noticing that its reader has left
            await asyncio.sleep(0)

    def _report(self, *, ms: float) -> None:
        scope = self._scope
        method, path, trace = scope["method"], shown_path(scope), state_of(scope)["trace_id"]
        data = {"method": method, "path": path, "status": self._status, "ms": round(ms, 1), "trace": trace}
        level = logging.DEBUG if route_path(scope) in ("/health", "/ready") else logging.INFO
        _log.log(level, "%s %s %s in %.1f ms", method, path, self._status, ms, extra={"data": data})


def _probe(scope: Scope, response: Response) -> Response:
    if scope["method"] in ("GET", "HEAD"):
        return response
    message = f"{scope['method']} is not allowed at {shown_path(scope)}."
    return error_response(405, "MethodNotAllowed", message, headers={"allow": "GET, HEAD"})
