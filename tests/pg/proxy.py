"""A TCP proxy in front of PostgreSQL that can go wrong in the ways of real networks.

It can freeze (it takes every byte, acknowledges it, and forwards nothing), cut connections with a reset, cut at a
chosen message, hang up on new connections, and answer like a pooler that knows no startup parameter.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from tests.waiting import passing

_CHUNK = 1 << 16
_PROTOCOL_3 = struct.pack("!I", 196608)


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    dead: bool = False  # bytes of it were swallowed, so it can never work again
    keeps_answers: bool = False


@dataclass(eq=False)
class Proxy:
    """`dsn` leads through the proxy. `accepted` counts the connections it ever took."""

    upstream: str
    dsn: str = ""
    accepted: int = 0
    seen: bytearray = field(default_factory=bytearray)
    _links: set[_Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _frozen: bool = False
    _closed_door: bool = False
    _cut_at: tuple[bytes, Literal["before", "after"]] | None = None
    _unknown_parameters: tuple[str, ...] = ()
    _lag: Callable[[], float] | None = None
    _piece: int = _CHUNK

    def freeze(self) -> None:
        """From now on bytes are taken and nothing comes back, on connections old and new."""
        self._frozen = True
        for link in self._links:
            link.dead = True

    def thaw(self) -> None:
        """New connections work again; those that were frozen stay so, as after a lost NAT entry."""
        self._frozen = False

    def cut(self) -> None:
        """Reset every connection."""
        for link in list(self._links):
            _reset(link)

    def say_farewell(self) -> None:
        """Tell every client what a server says that is shutting down, without hanging up yet."""
        for link in self._links:
            link.client.write(_fatal("57P01", "terminating connection due to administrator command"))

    def close_door(self) -> None:
        """Hang up on every new connection."""
        self._closed_door = True

    def open_door(self) -> None:
        self._closed_door = False

    def cut_at(self, message: bytes, *, server: Literal["before", "after"]) -> None:
        """Once a client sends `message`: reset its connection `before` the server got it, or `after` it answered."""
        self._cut_at = (message, server)

    def slow_down(self, lag: Callable[[], float], *, piece: int = _CHUNK) -> None:
        """From now on every `piece` of bytes, in each direction, takes `lag()` seconds."""
        self._lag, self._piece = lag, piece

    def speed_up(self) -> None:
        self._lag, self._piece = None, _CHUNK

    def refuse_parameters(self, *names: str) -> None:
        """Answer a startup packet that has one of these parameters as PgBouncer does."""
        self._unknown_parameters = names

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(writer, dead=self._frozen)
        self._links.add(link)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._closed_door:
                return
            from_server, link.server = await _connect(self.upstream)
            async with asyncio.TaskGroup() as both:
                back = both.create_task(self._answer(link, from_server))
                await self._ask(link, reader, link.server)
                back.cancel()
        except (OSError, asyncio.CancelledError):
            pass  # cancelled only by the end of `proxy_before`, and a stream server logs a cancelled handler as a fault
        except ExceptionGroup as group:  # one way or both of them broke
            if rest := group.split(OSError)[1]:
                raise rest from None
        finally:
            self._links.discard(link)
            self._tasks.discard(task)
            writer.transport.abort()
            if link.server:
                link.server.transport.abort()

    async def _ask(self, link: _Link, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await self._read(reader):
            if link.dead:
                continue
            self.seen += data
            if self._refused(link, data):
                return
            if self._cut_at and self._cut_at[0] in data:
                if self._cut_at[1] == "before":
                    _reset(link)
                    return
                link.keeps_answers = True
            server.write(data)
            await server.drain()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        data = await reader.read(self._piece)
        if self._lag is not None and data:
            await passing(self._lag())
        return data

    async def _answer(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await self._read(reader):
            if link.keeps_answers:
                _reset(link)
                return
            if not link.dead:
                link.client.write(data)
                await link.client.drain()
        if not link.dead:
            link.client.close()

    def _refused(self, link: _Link, data: bytes) -> bool:
        if data[4:8] != _PROTOCOL_3:
            return False
        for name in self._unknown_parameters:
            if name.encode() + b"\0" in data:
                link.client.write(_fatal("08P01", f"unsupported startup parameter: {name}"))
                return True
        return False


@asynccontextmanager
async def proxy_before(dsn: str) -> AsyncGenerator[Proxy]:
    """A proxy to the server of `dsn`, for the length of the block."""
    proxy = Proxy(dsn)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    proxy.dsn = f"postgresql://{user}@127.0.0.1:{port}{parts.path}?sslmode=disable"
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)


async def _connect(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(dsn)
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    host = options.get("host") or parts.hostname or "127.0.0.1"
    port = int(options.get("port") or parts.port or 5432)
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


def _fatal(state: str, message: str) -> bytes:
    fields = f"SFATAL\0VFATAL\0C{state}\0M{message}\0\0".encode()
    return b"E" + struct.pack("!I", len(fields) + 4) + fields


def _reset(link: _Link) -> None:
    """An RST towards the client, which is what it gets from a rebooted host."""
    link.dead = True
    transport = link.client.transport
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        with socket.socket(fileno=socket.dup(sock.fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    if link.server:
        link.server.transport.abort()
