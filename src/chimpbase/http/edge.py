"""The HTTP edge: the surface of a running app, on a server of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chimpbase._app.edges import EdgeEntry
from chimpbase.http.limits import Limits
from chimpbase.http.server import Server
from chimpbase.http.surface import Surface

if TYPE_CHECKING:
    from chimpbase import Runtime


class HttpEdge:
    """Serves the routes of an app at `settings.host` and `settings.port`.

    Raises:
        UsageError: routes that contradict each other.
        NotRegistered: a route names an action that is not there.
    """

    def __init__(self, runtime: Runtime, entries: Sequence[EdgeEntry], *, limits: Limits | None = None) -> None:
        settings = runtime.settings
        limits = limits or Limits()
        self._grace = settings.grace
        self._surface = Surface(runtime, entries, limits=limits)
        self._server = Server(
            self._surface, host=settings.host, port=settings.port, reuse_port=settings.reuse_port, limits=limits
        )

    @property
    def address(self) -> str:
        """Where it is reached, such as `http://127.0.0.1:8000`."""
        return self._server.address

    async def start(self) -> None:
        """Start the mounted applications, then listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            await self._surface.start()
            await self._server.start()
        except BaseException:
            await self._surface.stop()
            raise

    async def stop(self) -> None:
        """Accept nothing more, let requests in progress end within the grace, stop what is mounted. Idempotent."""
        self._surface.close()
        await self._server.stop(grace=self._grace)
        await self._surface.stop()
