"""Routes: pure values that say which action, route or application answers at which path. Registered like definitions.

A route is checked against its action when it is written, and against the other routes when the server starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from starlette.datastructures import URLPath
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from chimpbase import Stream, errors
from chimpbase._app.definitions import Action
from chimpbase._core.names import check_name
from chimpbase.http.arguments import Arguments
from chimpbase.http.body import LimitedBody
from chimpbase.http.limits import MIB

#: Answered by the server itself, before any route and any middleware.
RESERVED = ("/health", "/ready")

_NAME = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(:[a-zA-Z_][a-zA-Z0-9_]*)?\}")


class _Entry:
    """What `App(register=[...])` hands to this edge."""

    __chimpbase_edge__: str = "http"


@dataclass(frozen=True)
class ActionRoute(_Entry):
    """An action at a method and a path. `status` of None means 200, or 204 when the result is None."""

    method: str
    path: str
    action: Action[..., Any] | str
    status: int | None = None
    max_body_bytes: int = MIB

    def __post_init__(self) -> None:
        _check_path(self.path, title=self.title)
        if self.status is not None and not 200 <= self.status <= 299:
            raise errors.UsageError(
                f"The route {self.title} has status={self.status}; a result is sent with one from 200 to 299."
            )
        if self.max_body_bytes < 0:
            raise errors.UsageError(
                f"The route {self.title} has max_body_bytes={self.max_body_bytes}; it must be 0 or more."
            )
        if isinstance(self.action, Action):
            self.arguments(self.action)
        elif not isinstance(cast("object", self.action), str):
            raise errors.UsageError(
                f"The route {self.title} needs an action or the name of one, not {self.action!r:.60}. Decorate the "
                "function with @action, or give a Starlette route to route.plain."
            )

    def __str__(self) -> str:
        name = self.action if isinstance(self.action, str) else self.action.name
        return f"{self.title} -> {name}"

    @property
    def title(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"

    @property
    def needs(self) -> tuple[Action[..., Any], ...]:
        """What is registered along with this route."""
        return () if isinstance(self.action, str) else (self.action,)

    @property
    def names(self) -> list[str]:
        """The names in the path, in order."""
        return [match[1] for match in _NAME.finditer(self.path)]

    @property
    def plain_path(self) -> str:
        """The path with bare names in its braces, as OpenAPI writes it."""
        return _NAME.sub(lambda match: f"{{{match[1]}}}", self.path)

    @property
    def shape(self) -> str:
        """The path without its names: routes of one shape match the same paths."""
        return _NAME.sub(lambda match: f"{{{match[2] or ''}}}", self.path)

    def arguments(self, action: Action[..., Any]) -> Arguments:
        """How requests fill the parameters of this route's action."""
        return Arguments(action.parameters, method=self.method, path=self.path, in_path=self.names)

    def hides(self, other: ActionRoute) -> bool:
        """Whether every request for the other route would come here, if this one is asked first."""
        if self.method != other.method:
            return False
        return self.shape == other.shape or compile_path(self.path)[0].match(other.path) is not None


#: What a route of a stream is about: one stream, or the one that a request is allowed to read.
OneStream = Stream[Any] | str | Callable[[Request], Any]


@dataclass(frozen=True)
class StreamRoute(_Entry):
    """The tail of a stream at a path, as server-sent events."""

    path: str
    stream: OneStream

    def __post_init__(self) -> None:
        _check_path(self.path, title=self.title)
        if isinstance(self.stream, str):
            check_name("stream", self.stream)
        elif not isinstance(self.stream, Stream) and not callable(cast("object", self.stream)):
            raise errors.UsageError(
                f"The route {self.title} needs a stream, its name, or a function of the request that gives one, not "
                f"{self.stream!r:.60}."
            )

    def __str__(self) -> str:
        given: Any = self.stream
        return f"{self.title} -> stream {given if isinstance(given, str) else getattr(given, 'name', 'by request')}"

    @property
    def title(self) -> str:
        """Method and path."""
        return f"GET {self.path}"

    @property
    def needs(self) -> tuple[Stream[Any], ...]:
        """What is registered along with this route."""
        stream: Any = self.stream
        return () if isinstance(stream, str) or callable(stream) else (stream,)


@dataclass(frozen=True)
class PlainRoute(_Entry):
    """A Starlette route, as it is."""

    route: BaseRoute
    max_body_bytes: int = MIB
    needs: ClassVar[tuple[Action[..., Any], ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.route), BaseRoute):
            raise errors.UsageError(
                f"route.plain takes a Starlette route, such as Route('/path', endpoint), not {self.route!r:.60}."
            )
        path = getattr(self.route, "path", None)
        if isinstance(path, str) and isinstance(self.route, Route | WebSocketRoute | Mount):
            _check_reserved(path, title=str(self))

    def limited(self) -> BaseRoute:
        """The route, with its limit of the body around it."""
        return _Limited(self.route, max_body_bytes=self.max_body_bytes)

    def __str__(self) -> str:
        methods = ",".join(sorted(getattr(self.route, "methods", None) or ["*"]))
        return f"{methods} {getattr(self.route, 'path', '*')}"


@dataclass(frozen=True)
class MountedApp(_Entry):
    """An ASGI application below a path."""

    path: str
    app: ASGIApp = field(repr=False)
    max_body_bytes: int = MIB
    needs: ClassVar[tuple[Action[..., Any], ...]] = ()

    def __post_init__(self) -> None:
        _check_path(self.path, title=str(self))

    def __str__(self) -> str:
        return f"* {self.path.rstrip('/')}/"


@dataclass(frozen=True)
class MiddlewareEntry(_Entry):
    """An ASGI middleware around every route."""

    middleware: Middleware
    needs: ClassVar[tuple[Action[..., Any], ...]] = ()

    def __str__(self) -> str:
        return f"middleware {getattr(self.middleware.cls, '__name__', 'unnamed')}"


class Routes:
    """Makes routes. `route`, its one instance, holds nothing."""

    def get(self, path: str, action: Action[..., Any] | str, *, status: int | None = None) -> ActionRoute:
        """GET `path` runs the action with the query string; HEAD does the same and sends no body."""
        return ActionRoute("GET", path, action, status)

    def post(
        self, path: str, action: Action[..., Any] | str, *, status: int | None = None, max_body_bytes: int = MIB
    ) -> ActionRoute:
        """POST `path` runs the action with the JSON body.

        Names in braces fill the parameters of those names. If exactly one other parameter has an object type, the body
        is that value and what is left comes from the query string; else the body is an object with a member for each
        parameter, which the query string may give instead. The answer is the result as JSON, sent after the commit,
        with `status`, or 200, or 204 without a body when the result is None.

        Raises:
            UsageError: the path names what is no parameter, or is reserved for the server.

        Example:
            >>> from chimpbase import Ctx, action
            >>> @action
            ... async def rename(ctx: Ctx, order_id: int, name: str) -> None: ...
            >>> print(route.post("/orders/{order_id}/name", rename))
            POST /orders/{order_id}/name -> rename
        """
        return ActionRoute("POST", path, action, status, max_body_bytes)

    def put(
        self, path: str, action: Action[..., Any] | str, *, status: int | None = None, max_body_bytes: int = MIB
    ) -> ActionRoute:
        """PUT `path` runs the action; filled as for `post`."""
        return ActionRoute("PUT", path, action, status, max_body_bytes)

    def patch(
        self, path: str, action: Action[..., Any] | str, *, status: int | None = None, max_body_bytes: int = MIB
    ) -> ActionRoute:
        """PATCH `path` runs the action; filled as for `post`."""
        return ActionRoute("PATCH", path, action, status, max_body_bytes)

    def delete(self, path: str, action: Action[..., Any] | str, *, status: int | None = None) -> ActionRoute:
        """DELETE `path` runs the action; filled as for `get`. A body is not read."""
        return ActionRoute("DELETE", path, action, status)

    def head(self, path: str, action: Action[..., Any] | str, *, status: int | None = None) -> ActionRoute:
        """HEAD `path` runs the action, where the one of GET would do too much."""
        return ActionRoute("HEAD", path, action, status)

    def options(self, path: str, action: Action[..., Any] | str, *, status: int | None = None) -> ActionRoute:
        """OPTIONS `path` runs the action; without this the allowed methods are listed."""
        return ActionRoute("OPTIONS", path, action, status)

    def stream(self, path: str, stream: OneStream) -> StreamRoute:
        """GET `path` is the live tail of a stream, as `text/event-stream`, which browsers read with `EventSource`.

        Each event has the entry's payload as its data and the entry's position as its id. A reader begins with what
        comes, with `?since=` an instant, with `?after=` a position, or where its Last-Event-ID says, which a browser
        sends when it comes back: so nothing is missed or seen twice. Where the stream's retention took what is still to
        be read, the answer is 410.

        `stream` may be a function of the Starlette request that gives the stream, async or not: the place to look
        whether this reader may. `route.middleware` is another. A reader that falls behind holds no connection to the
        database, and each asks one short question a second.

        Example:
            >>> from chimpbase import Stream
            >>> print(route.stream("/logins", Stream("logins", dict)))
            GET /logins -> stream logins
        """
        return StreamRoute(path, stream)

    def plain(self, route: BaseRoute, *, max_body_bytes: int = MIB) -> PlainRoute:
        """A Starlette route of any kind. `runtime_of(request)` in it is the running app.

        Nothing is a transaction here until it calls an action. A longer body than `max_body_bytes` is answered 413.
        """
        return PlainRoute(route, max_body_bytes)

    def websocket(self, path: str, endpoint: Callable[..., Any]) -> PlainRoute:
        """A Starlette websocket endpoint. `runtime_of(websocket)` in it is the running app."""
        _check_path(path, title=f"WEBSOCKET {path}")
        return PlainRoute(WebSocketRoute(path, endpoint))

    def mount(self, path: str, app: ASGIApp, *, max_body_bytes: int = MIB) -> MountedApp:
        """Any ASGI application, such as a FastAPI one, below `path`. Its lifespan is run with the server.

        `scope["state"]["chimpbase"]` in it is the running app; `runtime_of(request)` finds it there.
        """
        return MountedApp(path, app, max_body_bytes)

    def middleware(self, middleware: Any, /, *args: Any, **options: Any) -> MiddlewareEntry:
        """An ASGI middleware, made as `middleware(app, *args, **options)`. The one registered first is the outermost.

        It sees every request but those for /health and /ready.
        """
        return MiddlewareEntry(Middleware(middleware, *args, **options))


route = Routes()


class _Limited(BaseRoute):
    def __init__(self, route: BaseRoute, *, max_body_bytes: int) -> None:
        self._route = route
        self._handle = LimitedBody(route.handle, most_bytes=max_body_bytes)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return self._route.matches(scope)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        return self._route.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handle(scope, receive, send)


def refuse_unreachable(routes: Sequence[ActionRoute]) -> None:
    """Look for routes that no request can reach.

    Raises:
        UsageError: another route, registered before, takes all its requests.
    """
    for index, later in enumerate(routes):
        for earlier in routes[:index]:
            if earlier.hides(later):
                move = "Remove one." if earlier.shape == later.shape else f"Register {later.title} first."
                raise errors.UsageError(f"No request can reach {later}: {earlier} takes them all. {move}")


def _check_path(path: str, *, title: str) -> None:
    if not path.startswith("/"):
        raise errors.UsageError(f"The route {title} must have a path that begins with a slash.")
    _check_reserved(path, title=title)
    try:
        compile_path(path)
    except (ValueError, AssertionError) as error:
        raise errors.UsageError(f"The route {title} has a path that cannot be read: {error}.") from None
    if "{" in _NAME.sub("", path) or "}" in _NAME.sub("", path):
        raise errors.UsageError(f"The route {title} has a brace without a name; write a parameter as {{name}}.")


def _check_reserved(path: str, *, title: str) -> None:
    if path.rstrip("/") in RESERVED:
        raise errors.UsageError(
            f"The route {title} is reserved: the server answers {path.rstrip('/')} itself. Take another path."
        )
