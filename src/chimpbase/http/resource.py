"""Resource: the actions behind one path, by method.

A request becomes arguments, the arguments become a call, the result becomes JSON inside the transaction of the call: a
result that cannot be sent takes back everything, and what is sent has been committed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chimpbase import errors
from chimpbase._app.definitions import Action
from chimpbase.http.answers import Refusal
from chimpbase.http.arguments import Arguments, Call
from chimpbase.http.body import read_body
from chimpbase.http.limits import Limits
from chimpbase.http.routes import ActionRoute
from chimpbase.http.scopes import header, state_of

if TYPE_CHECKING:
    from chimpbase import Runtime


@dataclass(frozen=True, slots=True)
class Deed:
    """One action behind one method. `sending` is the action with its result turned into JSON."""

    route: ActionRoute
    action: Action[..., Any]
    arguments: Arguments
    sending: Action[..., Any]


class Resource:
    """The ASGI application of one path."""

    def __init__(self, runtime: Runtime, routes: Sequence[ActionRoute], *, limits: Limits) -> None:
        self._runtime, self._limits = runtime, limits
        self._deeds = {one.method: _deed(runtime, one, limits=limits) for one in routes}
        self.path, self._names = routes[0].path, routes[0].names
        methods = {*self._deeds, "OPTIONS"}
        self.methods = sorted(methods | {"HEAD"} if "GET" in methods else methods)

    @property
    def deeds(self) -> Mapping[str, Deed]:
        """What is done, by method."""
        return self._deeds

    def route(self) -> Route:
        """The Starlette route of this path."""
        return Route(self.path, self, methods=self.methods, name=self.path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deed = self._deeds.get(scope["method"])
        if deed is None and scope["method"] == "HEAD":
            deed = self._deeds.get("GET")
        if deed is None:
            response = Response(status_code=204, headers={"allow": ", ".join(self.methods)})
        else:
            args, kwargs = await self._read(deed, scope, receive)
            trace = state_of(scope)["trace_id"]
            try:
                text = await self._runtime.call_traced(trace, deed.sending, (args, kwargs), {})
            except SystemExit as error:  # one request must not end the server
                raise errors.AttemptError(f"SystemExit came out of {deed.route.title}") from error
            response = _response(text, deed.route.status)
        await response(scope, receive, send)

    async def _read(self, deed: Deed, scope: Scope, receive: Receive) -> Call:
        # one path may have been given other names by the routes of other methods
        values = {mine: scope["path_params"][name] for mine, name in zip(deed.route.names, self._names, strict=True)}
        body = None
        if deed.arguments.reads_body:
            body = await read_body(scope, receive, most_bytes=deed.route.max_body_bytes, limits=self._limits)
            if body:
                _check_is_json(scope)
        return deed.arguments.fill(path=values, query=scope.get("query_string", b""), body=body or None)


def _deed(runtime: Runtime, route: ActionRoute, *, limits: Limits) -> Deed:
    action = runtime.app.registry.action(route.action) if isinstance(route.action, str) else route.action
    return Deed(route, action, route.arguments(action), _sending(action, most_bytes=limits.answer_bytes))


def _sending(action: Action[..., Any], *, most_bytes: int) -> Action[..., Any]:
    """The action, with the JSON of its result for a result; None stays None. It takes the arguments as two values."""
    codec, function = action.parameters.return_codec, action.function
    subject = f"result of {action.name}"

    def encode(result: Any) -> str | None:
        return None if result is None else codec.encode(result, subject=subject, limit_bytes=most_bytes)

    # wraps: for messages, and for the choice between loop and thread, it is the action itself
    if action.is_async:

        @functools.wraps(function)
        async def sending_async(ctx: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
            return encode(await function(ctx, *args, **kwargs))

        return Action(name=action.name, function=sending_async)

    @functools.wraps(function)
    def sending_plain(ctx: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        return encode(function(ctx, *args, **kwargs))

    return Action(name=action.name, function=sending_plain)


def _response(text: str | None, status: int | None) -> Response:
    if text is None:
        return Response(status_code=status or 204)
    if status in (204, 205):
        return Response(status_code=status)
    return Response(text, status or 200, media_type="application/json")


def _check_is_json(scope: Scope) -> None:
    if (encoding := header(scope, b"content-encoding")) not in (None, b"", b"identity"):
        message = f"The body is encoded as {_shown(encoding)}; send it as it is."
        raise Refusal(415, message, kind="UnsupportedMediaType", headers={"accept-encoding": "identity"})
    given = header(scope, b"content-type") or b""
    kind, _, parameters = given.lower().partition(b";")
    kind = kind.strip()
    charset = parameters.partition(b"charset=")[2].strip(b' "')
    is_json = kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
    if not is_json or charset not in (b"", b"utf-8", b"utf8"):
        sent = f"is {_shown(given)}" if given else "has no content-type"
        message = f"The body {sent}; this route takes JSON. Send it with `content-type: application/json`."
        raise Refusal(415, message, kind="UnsupportedMediaType")


def _shown(value: bytes | None) -> str:
    return ascii((value or b"")[:60].decode("latin-1")).strip("'\"")
