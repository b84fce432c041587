"""Stage: what ctx, its clients and whoever runs a function need of the place they are in.

A running app has one, the `Backstage`; a ctx that rides a transaction of the caller's has one of its own, in `bind`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from chimpbase._app.entries import Entry
from chimpbase._app.registry import Registry
from chimpbase._app.run_options import RunOptions
from chimpbase._app.shared_commits import SharedCommits
from chimpbase._app.tokens import Queue, Stream
from chimpbase._app.unit import Frame, Unit
from chimpbase._core.values import JobId, NewJob, QueueId, RunEnd
from chimpbase._store.following import FollowedJob

if TYPE_CHECKING:
    from chimpbase._app.definitions import Workflow


class Wakes(Protocol):
    """Who is told, after a commit, what there is to do now."""

    def ready(self, queues: Iterable[QueueId]) -> None: ...
    def later(self, seconds: float) -> None: ...
    def look(self) -> None: ...
    def watch_job(self, job: JobId) -> AbstractContextManager[asyncio.Event]: ...
    def appended(self, streams: Iterable[int]) -> None: ...
    def announced(self) -> None: ...
    def disturb(self, run: int, *, cancel: bool, reason: str | None = None) -> None: ...


class Stage(Protocol):
    """See `Backstage` for what each of them is.

    Where `is_sync`, nothing that ctx does ever suspends, and plain functions run right here; elsewhere they run in
    `threads`, or those of the event loop when that is None.
    """

    @property
    def registry(self) -> Registry: ...
    @property
    def secrets(self) -> Mapping[str, str]: ...
    @property
    def engine(self) -> Wakes: ...
    @property
    def threads(self) -> Executor | None: ...
    @property
    def is_sync(self) -> bool: ...
    @property
    def shared(self) -> SharedCommits | None:
        """Commits shared with others outside of any transaction; None where there is only the caller's."""
        ...

    @property
    def new_id(self) -> Callable[[], str]: ...

    async def queue_id(self, queue: Queue[Any], frame: Frame) -> QueueId: ...
    async def enqueue(
        self, frame: Frame, new: NewJob, payloads: Sequence[str], wake: Callable[[], None]
    ) -> list[JobId]: ...
    async def start_run(
        self, definition: Workflow[Any, Any], id: str, input: str, headers: str, options: RunOptions
    ) -> bool: ...
    def run_end(self, run: str, limit_s: float | None) -> Awaitable[RunEnd | None]: ...
    async def job(self, id: JobId, frame: Frame | None) -> FollowedJob | None: ...
    async def report(self, job: JobId, attempt: int, fraction: float, note: str | None) -> None: ...
    def unit(self, title: str) -> AbstractAsyncContextManager[Unit]: ...
    def tail(
        self, stream: Stream[Any], *, after: str | None, since: datetime | None = None, run: str | None = None
    ) -> AsyncGenerator[Entry[Any]]: ...
