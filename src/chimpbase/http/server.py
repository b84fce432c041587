"""Server: uvicorn on the runtime's own loop, without its own loop, signals and logging.

Invariant: `stop` ends. Requests in progress get the grace; whatever is left then, a client that reads nothing included,
is cut off.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from datetime import timedelta

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from chimpbase import errors
from chimpbase.http.limits import Limits
from chimpbase.http.wire import WireConfig, WireProtocol

_log = logging.getLogger("chimpbase.http")

_BACKLOG = 2048
_DATE_EVERY_S = 1.0  # the date header has seconds
_CANCELLED_S = 1.0
_LOOK_AGAIN_S = 0.02


class Server:
    """Serves one ASGI application on one address."""

    def __init__(self, app: ASGIApp, *, host: str, port: int, limits: Limits, reuse_port: bool = False) -> None:
        self._app, self._host, self._port, self._limits = app, host, port, limits
        self._reuse_port = reuse_port
        self._server: uvicorn.Server | None = None
        self._dates: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Such as `http://127.0.0.1:8000`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen. Connections are accepted when this returns.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        sockets = await _listen(self._host, self._port, reuse_port=self._reuse_port)
        self._port = sockets[0].getsockname()[1]
        config = WireConfig(
            self._run,
            host=self._host,
            port=self._port,
            http=WireProtocol,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws_max_size=self._limits.body_bytes,
            timeout_keep_alive=self._limits.keep_alive_s,
        )
        config.limits, config.most_connections = self._limits, _most_connections(self._limits)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        try:
            await server.startup(sockets=sockets)
        except BaseException:
            for one in sockets:
                one.close()
            raise
        self._server = server
        self._dates = asyncio.create_task(self._keep_dates(server), name="http date")

    async def stop(self, *, grace: timedelta) -> None:
        """Accept nothing more, give the requests in progress the grace, then cut off what is left. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._dates is not None:
            self._dates.cancel()
        state = server.server_state
        for listener in server.servers:
            listener.close()
        for connection in list(state.connections):
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + grace.total_seconds()
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=grace.total_seconds())
        while state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            # the last bytes are on their way out, and no event tells when they have gone
            await asyncio.sleep(_LOOK_AGAIN_S)
        await self._cut_off(state)

    async def _cut_off(self, state: ServerState) -> None:
        for connection in list(state.connections):
            if isinstance(connection, WireProtocol) and connection.is_answering:
                connection.transport.abort()
        await asyncio.sleep(0)  # so that they know it when they are cancelled
        tasks = set(state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _log.warning("%d requests were still in progress at the end of the grace and are cancelled", len(tasks))
            await asyncio.wait(tasks, timeout=_CANCELLED_S)
        for connection in list(state.connections):
            connection.transport.abort()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # only the end of the grace cancels; the request has its answer, and uvicorn would log a failure
            return

    async def _keep_dates(self, server: uvicorn.Server) -> None:
        while True:
            await server.on_tick(0)
            await asyncio.sleep(_DATE_EVERY_S)


async def _listen(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """A listening socket for each address of the host, all on one port."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise errors.ConfigError(
            f"The HTTP host {host!r} is no address: {error.strerror}. Use one of this machine, such as 127.0.0.1.",
            key="host",
        ) from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, place in dict.fromkeys(found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_bound(family, (str(place[0]), chosen), host=host, reuse_port=reuse_port))
    except errors.ConfigError:
        # `localhost` may have an address of a family that this machine lacks, or a free port only in one
        if not sockets or port:
            _close(sockets)
            raise
    return sockets


def _bound(family: int, place: tuple[str, int], *, host: str, reuse_port: bool) -> socket.socket:
    try:
        return socket.create_server(place, family=family, backlog=_BACKLOG, reuse_port=reuse_port)
    except OSError as error:
        port = place[1]
        match error.errno:
            case errno.EADDRINUSE:
                message = f"Port {port} is taken on {host}. Stop what listens there, or use --port; 0 takes a free one."
                raise errors.ConfigError(message, key="port", expected="a free port") from None
            case errno.EACCES:
                message = f"This user may not listen on port {port}. Use --port with 1024 or more."
                raise errors.ConfigError(message, key="port", expected="a port from 1024") from None
            case _:
                message = (
                    f"Cannot listen on {host}, port {port}: {error.strerror}. Use --host with one of this machine."
                )
                raise errors.ConfigError(message, key="host", expected="an address of this machine") from None


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _most_connections(limits: Limits) -> int:
    """Room for the connections that only wait, and for the files of everybody else in this process."""
    wanted = limits.requests * 4
    try:
        import resource
    except ImportError:  # not a POSIX system
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft // 2)
