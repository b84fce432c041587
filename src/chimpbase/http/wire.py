"""Wire: one connection, read with suspicion.

uvicorn listens to a connection for as long as its client likes to talk. Here the head of a request has a size and a
time, a request has one Host, the framing around a body is bounded, what nobody reads any more is cut off, and only so
many connections are open at once. Invariant: every moment without a request in progress has a deadline.
"""

from __future__ import annotations

import asyncio
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chimpbase.http.limits import Limits

_BODY_CREDIT = 8  # bytes of framing for each byte of body: a chunk of one byte takes five more
_HEADER_OVERHEAD_BYTES = 4  # colon, space, CR, LF
_TOO_LARGE = b"The head of the request is too large."


class WireConfig(uvicorn.Config):
    """uvicorn's settings, and the limits of each connection."""

    limits: Limits
    most_connections: int


class WireProtocol(HttpToolsProtocol):
    """A connection of the server."""

    limits: Limits
    _deadline: asyncio.TimerHandle | None = None
    _too_large = False
    _head_bytes = 0  # of the head being read, and of the trailers that may follow its body
    _framing_bytes = 0  # received since the last head, less what the body explains
    _discarded_bytes = 0

    @property
    def is_answering(self) -> bool:
        """Whether an answer has begun and not ended."""
        return self._in_progress() and self.cycle.response_started

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        config = cast("WireConfig", self.config)
        self.limits = config.limits
        super().connection_made(cast("asyncio.Transport", transport))
        if len(self.connections) > config.most_connections:
            self.transport.abort()
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._framing_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._framing_bytes > self.limits.head_bytes:
            self._too_large = True
            self.send_400_response("")
        elif not self._in_progress():
            self._arm()

    def on_message_begin(self) -> None:
        self._head_bytes = self._discarded_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + _HEADER_OVERHEAD_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        hosts = sum(1 for name, _ in self.headers if name == b"host")
        assert self.parser is not None  # it goes with the connection
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("a request has one Host")
        self._framing_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = max(0, self._framing_bytes - _BODY_CREDIT * len(body))
        if not self._in_progress():
            # the answer is out and nobody reads the rest
            self._discarded_bytes += len(body)
            if self._discarded_bytes > self.limits.body_bytes:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self.pipeline or self.is_answering:
            # an answer is half way out: another one in the middle would be taken for a part of it
            self.transport.abort()
        elif self._too_large:
            head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(STATUS_LINE[431] + head % len(_TOO_LARGE) + _TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _in_progress(self) -> bool:
        cycle = cast("object | None", self.cycle)  # None until the first request
        return cycle is not None and not self.cycle.response_complete

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes:
            self._too_large = True
            raise ValueError("the head of the request is too large")

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.head_s, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()
