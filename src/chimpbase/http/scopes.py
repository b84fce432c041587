"""Scopes: what is read from and kept in the ASGI scope of a request."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, cast

from chimpbase import errors

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from chimpbase import Runtime

Scope = MutableMapping[str, Any]

_SAFE = frozenset(range(0x21, 0x7F))
_SHOWN_BYTES = 300


def state_of(scope: Scope) -> dict[str, Any]:
    """What travels with one request: `request.state` in Starlette."""
    return cast("dict[str, Any]", scope.setdefault("state", {}))


def route_path(scope: Scope) -> str:
    """The path below the place where this app is mounted."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


def shown_path(scope: Scope) -> str:
    """The path as it was sent, without its query, safe to print: no control character or other surprise is in it."""
    raw = cast("bytes", scope.get("raw_path") or str(scope.get("path", "")).encode()).partition(b"?")[0]
    shown = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw[:_SHOWN_BYTES])
    return shown if len(raw) <= _SHOWN_BYTES else f"{shown}..."


def header(scope: Scope, name: bytes) -> bytes | None:
    """The last header of that lower-case name, None when there is none."""
    found = None
    for key, value in cast("list[tuple[bytes, bytes]]", scope.get("headers", ())):
        if key == name:
            found = value
    return found


def runtime_of(connection: HTTPConnection | Scope) -> Runtime:
    """The running app behind a Starlette request, a websocket or an ASGI scope.

    `await runtime_of(request).call(place_order, new)` runs an action in a transaction of its own.

    Raises:
        NotStarted: the request did not come through a Chimpbase app.
    """
    scope = connection if isinstance(connection, dict) else cast("Any", connection).scope
    runtime = cast("Scope", scope).get("state", {}).get("chimpbase")
    if runtime is None:
        raise errors.NotStarted(
            "This request did not come through a Chimpbase app. Register its route with route.plain or route.mount."
        )
    return runtime
