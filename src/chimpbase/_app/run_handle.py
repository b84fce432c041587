"""Handles: one run, and what can be done to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, overload

from chimpbase._app.entries import Entry
from chimpbase._app.run_views import HistoryEntry, Run
from chimpbase._app.tokens import Signal, Stream, Update

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


class Steering(Protocol):
    """The verbs of `ctx.workflow` that take a run."""

    async def get(self, run: Handle[Any]) -> Run: ...
    async def result(self, run: Handle[R], *, timeout: timedelta | float | None = None) -> R: ...
    async def history(self, run: Handle[Any]) -> tuple[HistoryEntry, ...]: ...
    async def export(self, run: Handle[Any]) -> str: ...
    def tail(self, run: Handle[Any], stream: Any, *, after: str | None = None) -> AsyncGenerator[Entry[Any]]: ...
    async def signal(
        self, run: Handle[Any], signal: Any, payload: Any = None, *, dedupe: str | None = None
    ) -> None: ...
    async def update(
        self, run: Handle[Any], update: Update[T, S], payload: T, *, timeout: timedelta | float | None = None
    ) -> S: ...
    async def cancel(self, run: Handle[Any], reason: str = ..., *, force: bool = False) -> None: ...
    async def pause(self, run: Handle[Any]) -> None: ...
    async def resume(self, run: Handle[Any]) -> None: ...
    async def retry(self, run: Handle[Any]) -> None: ...
    async def rewind(self, run: Handle[Any], *, to: str) -> None: ...
    async def fork(self, run: Handle[R], *, at: str, id: str | None = None) -> Handle[R]: ...


class Handle(Generic[R]):
    """A run by its `id`. Its verbs are those of the `ctx.workflow` that it came from, and end with it."""

    __slots__ = ("_client", "id")

    def __init__(self, client: Steering, id: str) -> None:
        self._client, self.id = client, id

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    async def get(self) -> Run:
        """See `ctx.workflow.get`."""
        return await self._client.get(self)

    async def result(self, *, timeout: timedelta | float | None = None) -> R:
        """See `ctx.workflow.result`."""
        return await self._client.result(self, timeout=timeout)

    async def history(self) -> tuple[HistoryEntry, ...]:
        """See `ctx.workflow.history`."""
        return await self._client.history(self)

    async def export(self) -> str:
        """See `ctx.workflow.export`."""
        return await self._client.export(self)

    @overload
    def tail(self, stream: Stream[T], *, after: str | None = None) -> AsyncGenerator[Entry[T]]: ...
    @overload
    def tail(self, stream: str, *, after: str | None = None) -> AsyncGenerator[Entry[Any]]: ...
    def tail(self, stream: Any, *, after: str | None = None) -> AsyncGenerator[Entry[Any]]:
        """See `ctx.workflow.tail`."""
        return self._client.tail(self, stream, after=after)

    async def signal(self, signal: Signal[T] | str, payload: Any = None, *, dedupe: str | None = None) -> None:
        """See `ctx.workflow.signal`."""
        await self._client.signal(self, signal, payload, dedupe=dedupe)

    async def update(self, update: Update[T, S], payload: T, *, timeout: timedelta | float | None = None) -> S:
        """See `ctx.workflow.update`."""
        return await self._client.update(self, update, payload, timeout=timeout)

    async def cancel(self, reason: str = "cancelled by hand", *, force: bool = False) -> None:
        """See `ctx.workflow.cancel`."""
        await self._client.cancel(self, reason, force=force)

    async def pause(self) -> None:
        """See `ctx.workflow.pause`."""
        await self._client.pause(self)

    async def resume(self) -> None:
        """See `ctx.workflow.resume`."""
        await self._client.resume(self)

    async def retry(self) -> None:
        """See `ctx.workflow.retry`."""
        await self._client.retry(self)

    async def rewind(self, *, to: str) -> None:
        """See `ctx.workflow.rewind`."""
        await self._client.rewind(self, to=to)

    async def fork(self, *, at: str, id: str | None = None) -> Handle[R]:
        """See `ctx.workflow.fork`."""
        return await self._client.fork(self, at=at, id=id)
