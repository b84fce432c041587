"""The app as an ASGI application: for any server, or inside an application of another framework."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import Receive, Scope, Send

from chimpbase import App, errors
from chimpbase.http.limits import Limits
from chimpbase.http.surface import Surface


class Asgi:
    """An ASGI application that runs an App for as long as its own lifespan. Made by `asgi`."""

    def __init__(self, app: App, options: dict[str, Any]) -> None:
        self.app, self._options = app, options
        self._surface: Surface | None = None

    @asynccontextmanager
    async def lifespan(self, host: object = None) -> AsyncGenerator[dict[str, Any]]:
        """Run the app. Give it to a host that mounts this application: `FastAPI(lifespan=ours.lifespan)`.

        What it yields becomes the state of every request of the host: `runtime_of(request)` works in the host's own
        routes too.
        """
        async with self.app.running(**self._options) as runtime:
            surface = Surface(runtime, self.app.edge_entries, limits=Limits())
            try:
                await surface.start()
                self._surface = surface
                yield {"chimpbase": runtime}
            finally:
                self._surface = None
                await surface.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._surface is None:
            raise errors.NotStarted(
                f"App {self.app.name!r} does not run, so it cannot answer. A host does not run the lifespan of what it "
                "mounts: give it `lifespan=` of this application, or enter that in the host's own."
            )
        await self._surface(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        started = False
        try:
            await receive()
            async with self.lifespan():
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            phase = "shutdown" if started else "startup"
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})


def asgi(app: App, **running_options: Any) -> Asgi:
    """Make an app an application for any ASGI server: `uvicorn shop:web` after `web = asgi(app)`.

    `running_options` are those of `App.running`. The lifespan of the application starts and stops everything: database,
    workers, schedules. Served by itself that happens by itself. Mounted in another application it does not, because
    hosts do not run the lifespan of what they mount; hand it to the host instead:

        web = asgi(app)
        host = FastAPI(lifespan=web.lifespan)
        host.mount("/shop", web)

    Each process that serves it is a whole runtime of its own. Requests and schedules are shared through the database.
    """
    return Asgi(app, running_options)
