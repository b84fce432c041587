"""Body: reads the body of a request within its limits, while it arrives.

Invariant: no more than the limit is ever held, whether the client announced a length or not.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Send

from chimpbase.http.answers import Refusal
from chimpbase.http.limits import Limits
from chimpbase.http.scopes import Scope, header, state_of

_DRAIN_S = 1.0
_DRAIN_BYTES = 16 * 1024 * 1024


class PatientReceive:
    """A `receive` that gives up on a body that has stopped coming; afterwards it waits as long as it takes.

    Giving up looks like a client that left, with `slow` set in the state of the request.
    """

    def __init__(self, scope: Scope, receive: Receive, *, idle_s: float) -> None:
        self._scope, self._receive, self._idle_s = scope, receive, idle_s
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._idle_s):
                message = await self._receive()
        except TimeoutError:
            self._complete = True
            state_of(self._scope)["slow"] = True
            return {"type": "http.disconnect"}
        self._complete = not message.get("more_body", False)
        return message


class LimitedBody:
    """An ASGI application around one that reads bodies itself: it gets no more than `most_bytes` of one."""

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, self._limited(scope, receive) if scope["type"] == "http" else receive, send)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            if seen == 0 and _announced(scope) > self._most_bytes:
                await _drain(scope, receive)
                raise _too_large(self._most_bytes)
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most_bytes:
                if message.get("more_body", False):
                    await _drain(scope, receive)
                raise _too_large(self._most_bytes)
            return message

        return limited


async def read_body(scope: Scope, receive: Receive, *, most_bytes: int, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413, it is longer than `most_bytes`.
        ClientDisconnect: the client left, or took longer than the limits allow.
    """
    if _announced(scope) > most_bytes:
        await _drain(scope, receive)
        raise _too_large(most_bytes)
    chunks: list[bytes] = []
    held, more = 0, True
    try:
        async with asyncio.timeout(limits.body_s):
            while more and held <= most_bytes:
                chunk, more = await _next(receive)
                chunks.append(chunk)
                held += len(chunk)
    except TimeoutError:
        state_of(scope)["slow"] = True
        raise ClientDisconnect from None
    if held > most_bytes:
        chunks.clear()
        if more:
            await _drain(scope, receive)
        raise _too_large(most_bytes)
    return b"".join(chunks)


def _announced(scope: Scope) -> int:
    length = header(scope, b"content-length") or b""
    return int(length) if length.isdigit() and len(length) < 20 else 0


async def _next(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _drain(scope: Scope, receive: Receive) -> None:
    """Let go by a part of what is too much: most clients read no answer before they have sent all of it."""
    if header(scope, b"expect") is not None:
        return  # it waits to be asked for the body
    seen, more = 0, True
    try:
        async with asyncio.timeout(_DRAIN_S):
            while more and seen < _DRAIN_BYTES:
                chunk, more = await _next(receive)
                seen += len(chunk)
    except (TimeoutError, ClientDisconnect):
        return


def _too_large(most_bytes: int) -> Refusal:
    message = f"The body is longer than the {most_bytes:,} bytes this route takes."
    return Refusal(413, message, kind="ContentTooLarge", headers={"connection": "close"})
