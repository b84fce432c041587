"""The unit of work of a ctx that is bound to the caller's connection: it is the caller's transaction.

Invariant: it is neither begun nor ended here, and what should follow its commit follows only when the connection's own
library says that it has committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from chimpbase._app.frame import AfterCommit, Frame, Root
from chimpbase._app.waiter import in_place
from chimpbase._core.errors import UsageError
from chimpbase._core.values import JobId, QueueId
from chimpbase._pg.db import Transactional
from chimpbase._pg.foreign import Foreign

_log = logging.getLogger("chimpbase.transaction")

Tell = Callable[[Iterable[QueueId], "float | None", bool, Iterable[int], bool], None]


class PendingWakes:
    """What there will be to do after the commit: some numbers of queues, however much was enqueued."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._queues: set[QueueId] = set()
        self._streams: set[int] = set()
        self._later_s: float | None = None
        self._look = self._announced = False

    def ready(self, queues: Iterable[QueueId]) -> None:
        """See `Wakes`."""
        self._queues.update(queues)

    def later(self, seconds: float) -> None:
        """See `Wakes`."""
        self._later_s = seconds if self._later_s is None else min(self._later_s, seconds)

    def look(self) -> None:
        """See `Wakes`."""
        self._look = True

    def appended(self, streams: Iterable[int]) -> None:
        """See `Wakes`."""
        self._streams.update(streams)

    def announced(self) -> None:
        """See `Wakes`."""
        self._announced = True

    def disturb(self, run: int, *, cancel: bool, reason: str | None = None) -> None:
        """Nothing: who runs it looks for itself, once a poll."""

    def watch_job(self, job: JobId) -> NoReturn:
        """Refused: it waits for commits of others while the caller's transaction is held open."""
        raise UsageError(f"A bound ctx cannot wait for the result of job {int(job)}; use app.ctx.queue.handle(id).")

    def flush(self) -> None:
        """Tell it now. Too early is harmless: whoever wakes finds nothing, and looks again at the next poll."""
        if self._queues or self._streams or self._later_s is not None or self._look or self._announced:
            self._tell(list(self._queues), self._later_s, self._look, list(self._streams), self._announced)
            self._queues.clear()
            self._streams.clear()
            self._later_s, self._look, self._announced = None, False, False


class BoundUnit(Root):
    """The caller's transaction, as frames see it."""

    __slots__ = ("_connection", "_tasks", "_title", "_wakes")

    def __init__(self, connection: Foreign, *, title: str, wakes: PendingWakes) -> None:
        super().__init__()
        self._connection, self._title, self._wakes = connection, title, wakes
        self._tasks: set[asyncio.Future[None]] = set()

    @property
    def title(self) -> str:
        return self._title

    @property
    def transactional(self) -> bool:
        return True

    @property
    def opened(self) -> bool:
        return True

    async def enter(self, frame: Frame) -> Transactional:
        """The caller's connection, inside every savepoint that the frame needs."""
        await frame.save(self._connection)
        return self._connection

    async def leave(self, connection: Transactional, *, failed: bool) -> None:
        """Nothing: the connection stays the caller's."""

    async def rollback(self) -> None:
        """Nothing: how the transaction ends is for the caller to say."""

    async def after_statement(self, frame: Frame) -> None:
        """See `Root`."""
        self.followed(frame)

    def followed(self, frame: Frame) -> None:
        """Hand over what has reached the root at once: the library then ties it to the caller's innermost savepoint."""
        if frame is not self or not frame.after_commit:
            return
        callbacks, frame.after_commit = frame.after_commit, []
        if self._connection.on_commit is None:
            self._run(callbacks)  # only our own, since `check_on_commit` lets no others in; they fill `_wakes`
        else:
            self._connection.on_commit(lambda: self._committed(callbacks))

    def check_on_commit(self) -> None:
        """See `Root`."""
        if self._connection.on_commit is None:
            raise UsageError(
                f"{self._title}: this connection cannot tell when its transaction has committed, so nothing can follow "
                "it. Do it after your own commit, or bind an SQLAlchemy session or Django's connection, which can."
            )

    def _committed(self, callbacks: Sequence[AfterCommit]) -> None:
        self._run(callbacks)
        self._wakes.flush()

    def _run(self, callbacks: Sequence[AfterCommit]) -> None:
        for callback in callbacks:
            try:
                pending = callback()
                if pending is not None:
                    self._await(pending)
            except Exception as error:
                self._failed(error)

    def _await(self, pending: Any) -> None:
        """A commit hook cannot wait: on an event loop the callback goes on by itself, elsewhere it may not suspend."""
        if self._connection.is_sync:
            in_place(pending)
            return
        task = asyncio.ensure_future(pending)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        _log.error("on_commit of %s failed", self._title, exc_info=error)
