"""Mounts: applications of other frameworks below a path of ours, alive for as long as we are.

A host that mounts an ASGI application does not run its lifespan (Starlette and FastAPI do not); this one does, so that
a mounted FastAPI application opens and closes what it needs.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from chimpbase import errors
from chimpbase.http.body import LimitedBody
from chimpbase.http.routes import MountedApp
from chimpbase.http.scopes import state_of

if TYPE_CHECKING:
    from chimpbase import Runtime

_log = logging.getLogger("chimpbase.http")
_STOP_S = 10.0


class RunningMount:
    """One mounted application. It is one itself, which hands each request on with the state of the lifespan."""

    def __init__(self, entry: MountedApp, runtime: Runtime) -> None:
        self._entry, self._app = entry, entry.app
        self._state: dict[str, Any] = {"chimpbase": runtime}
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started, self._stopped = asyncio.Event(), asyncio.Event()
        self._failure: str | None = None
        self._life: asyncio.Task[None] | None = None
        if isinstance(self._app, Starlette):
            self._app.state.chimpbase = runtime

    def route(self) -> Mount:
        """The Starlette route of it."""
        return Mount(self._entry.path, LimitedBody(self, most_bytes=self._entry.max_body_bytes))

    async def start(self) -> None:
        """Run the application's startup, if it has one.

        Raises:
            UsageError: it said that it failed.
        """
        self._life = asyncio.create_task(self._live(), name=f"lifespan of the app at {self._entry.path}")
        self._inbox.put_nowait({"type": "lifespan.startup"})
        await self._until(self._started, self._life)
        if self._failure is not None:
            raise errors.UsageError(f"The application mounted at {self._entry.path} failed to start: {self._failure}")

    async def stop(self) -> None:
        """Run its shutdown, and wait for it a while. Idempotent."""
        life, self._life = self._life, None
        if life is None:
            return
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await self._until(self._stopped, life, timeout_s=_STOP_S)
        if not life.done():
            _, late = await asyncio.wait([life], timeout=_STOP_S)
            for task in late:
                task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        scope["state"] = {**self._state, **state}
        await self._app(scope, receive, send)

    async def _live(self) -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._inbox.get, self._hear)
        except Exception as error:
            # before it has started this means "I have no lifespan"; afterwards it is a fault of the application
            if self._started.is_set():
                _log.error("The lifespan of the app mounted at %s failed", self._entry.path, exc_info=error)

    async def _hear(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.failed":
                self._failure = message.get("message", "").strip() or "it gave no reason"
                self._started.set()
            case "lifespan.startup.complete":
                self._started.set()
            case _:
                self._stopped.set()

    async def _until(self, event: asyncio.Event, life: asyncio.Task[None], *, timeout_s: float | None = None) -> None:
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait([waiting, life], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
