"""Bind: a ctx that rides a transaction of the caller's, on the caller's own connection or session.

Names are resolved in the database of that connection, never from what a running app has learned about its own: so a
bound ctx needs no running app, and cannot mistake one database for another. What it does need is a database in which a
process that declares those names has started once.
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Protocol

from chimpbase._app.bind_unit import BoundUnit, PendingWakes
from chimpbase._app.config import read_secrets, read_settings
from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import Workflow
from chimpbase._app.origin import Origin
from chimpbase._app.registry import Registry
from chimpbase._app.run_options import RunOptions
from chimpbase._app.runtime import Runtime
from chimpbase._app.sync import SyncCtx
from chimpbase._app.tokens import Queue, Stream
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import in_place
from chimpbase._core.errors import NotRegistered, UsageError
from chimpbase._core.values import JobId, NewJob, QueueId
from chimpbase._pg.foreign_kinds import ride
from chimpbase._store import following, jobs, queues
from chimpbase._store.following import FollowedJob


class AsyncCommits(Protocol):
    """A connection or session whose `commit` is awaited: psycopg's and SQLAlchemy's asynchronous ones."""

    async def commit(self) -> None: ...


class SyncCommits(Protocol):
    """A connection or session whose `commit` blocks: psycopg's, SQLAlchemy's, Django's."""

    def commit(self) -> None: ...


class Asyncpg(Protocol):
    """A connection of asyncpg, which commits with a block."""

    def is_in_transaction(self) -> bool: ...


class BoundCtx(Ctx):
    """A Ctx whose transaction belongs to the caller."""

    def __init__(self, stage: BoundStage, unit: BoundUnit, origin: Origin) -> None:
        super().__init__(stage, unit.root, origin)
        self._wakes = stage.engine

    def wake(self) -> None:
        """Tell the running app, here and in other processes, of what was enqueued. Call it after your commit.

        Saves up to `poll` (1 s) of waiting. Not needed with sessions of SQLAlchemy or with Django, which tell of
        their commits; without a running app in this process there is nobody to tell, and the poll finds the jobs.
        """
        self._wakes.flush()


class BoundSyncCtx(SyncCtx):
    """A SyncCtx whose transaction belongs to the caller. Its verbs run in the caller's thread, without a loop."""

    def __init__(self, ctx: BoundCtx) -> None:
        super().__init__(ctx, in_place)
        self._bound = ctx

    def wake(self) -> None:
        """See `BoundCtx.wake`."""
        self._bound.wake()


class BoundStage:
    """What a bound ctx is made of beside its connection: the app's registry, and the app itself while it runs."""

    shared = None
    threads: Executor | None = None

    def __init__(self, registry: Registry, running: Callable[[], Runtime | None], *, is_sync: bool) -> None:
        self.registry, self._running, self.is_sync = registry, running, is_sync
        self.engine = PendingWakes(self._tell)
        self._queue_ids: dict[str, QueueId] = {}

    @property
    def secrets(self) -> Mapping[str, str]:
        """From where the running app has them, else from where it would."""
        return self._secrets

    @cached_property
    def _secrets(self) -> Mapping[str, str]:
        runtime = self._running()
        project = runtime.project if runtime else Path.cwd()
        settings = runtime.settings if runtime else read_settings({}, environ=os.environ, project=project)
        return read_secrets(settings, environ=os.environ, project=project)

    @property
    def new_id(self) -> Callable[[], str]:
        """How ids of runs are made up."""
        return lambda: str(uuid.uuid4())

    async def queue_id(self, queue: Queue[Any], frame: Frame) -> QueueId:
        """The queue's number in the caller's database; it is asked for once.

        A queue that is not there is not made, since others who need it would then wait for the caller's commit.

        Raises:
            NotRegistered: no process has declared it there.
        """
        if queue.name not in self._queue_ids:
            async with frame.statement() as connection:
                found = await queues.find(connection, name=queue.name)
            if found is None:
                raise NotRegistered("queue", queue.name, advice=_DECLARE)
            self._queue_ids[queue.name] = found
        return self._queue_ids[queue.name]

    async def enqueue(
        self, frame: Frame, new: NewJob, payloads: Sequence[str], wake: Callable[[], None]
    ) -> list[JobId]:
        """Store jobs in the caller's transaction."""
        store = jobs.enqueue_many if new.asked is None else jobs.enqueue_with
        async with frame.statement() as connection:
            ids = await store(connection, new, payloads)
        frame.after_commit.append(wake)
        return ids

    async def job(self, id: JobId, frame: Frame | None) -> FollowedJob | None:
        """A job as the caller's transaction sees it."""
        assert frame is not None  # a bound transaction is never over, as far as can be told from here
        async with frame.statement() as connection:
            return await following.get(connection, id=id)

    async def report(self, job: JobId, attempt: int, fraction: float, note: str | None) -> NoReturn:
        """Refused: no job runs in a bound ctx."""
        raise UsageError(f"Job {int(job)} does not run in a bound ctx.")

    async def start_run(
        self, definition: Workflow[Any, Any], id: str, input: str, headers: str, options: RunOptions
    ) -> bool:
        """Never that way: it starts with the caller's commit."""
        del definition, id, input, headers, options
        return False

    def run_end(self, run: str, limit_s: float | None) -> NoReturn:
        """Refused: it waits for commits of others while the caller's transaction is held open."""
        raise UsageError(
            f"A bound ctx cannot wait for the result of run {run!r}: it would hold your transaction open meanwhile. "
            "Use `async with app.transaction() as ctx:` for that, or ctx.workflow.get."
        )

    def unit(self, title: str) -> NoReturn:
        """Refused: a bound ctx has one transaction."""
        raise UsageError(f"{title} is bound to a transaction of yours and opens no other.")

    def tail(
        self, stream: Stream[Any], *, after: str | None, since: datetime | None = None, run: str | None = None
    ) -> NoReturn:
        """Refused, as `run_end`."""
        raise UsageError(
            f"A bound ctx cannot follow stream {stream.name!r}: it would hold your transaction open meanwhile. Use "
            f"`app.ctx.{'stream' if run is None else 'workflow'}.tail` for that, or ctx.stream.read."
        )

    def _tell(
        self, ready: Iterable[QueueId], later_s: float | None, look: bool, streams: Iterable[int], announced: bool
    ) -> None:
        if (runtime := self._running()) is not None:
            runtime.wake(list(ready), later_s=later_s, look=look, streams=list(streams), announced=announced)


_DECLARE = "Register it, and start a process of the app on this database once: that is what makes its queues."


def _new_trace() -> str:
    return secrets.token_hex(16)


def bind(connection: object, *, name: str, registry: Registry, running: Callable[[], Runtime | None]) -> Any:
    """See `App.bind`; `name` is the app's, and `running` answers its runtime while there is one."""
    foreign = ride(connection)
    title = f"transaction bound to {name}"
    stage = BoundStage(registry, running, is_sync=foreign.is_sync)
    unit = BoundUnit(foreign, title=title, wakes=stage.engine)
    ctx = BoundCtx(stage, unit, Origin(title=title, name=name, cause=f"app:{name}", new_trace=_new_trace))
    return BoundSyncCtx(ctx) if foreign.is_sync else ctx
