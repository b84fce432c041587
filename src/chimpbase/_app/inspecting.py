"""What `ctx.queue` shows of queues and jobs, and the limits an operator gives to a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import msgspec

from chimpbase._app.queue_names import queue_name
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.errors import NotRegistered, UsageError
from chimpbase._core.limits import Limits
from chimpbase._core.views import JobView, QueueView
from chimpbase._store import gates, inspect, queues

if TYPE_CHECKING:
    from chimpbase._app.stage import Stage

JobState = Literal["ready", "running", "later", "dead", "done"]
_LIFTED: Mapping[str, object] = dict.fromkeys(("concurrency", "key_concurrency", "rate", "key_rate", "ordered", "fair"))


class Inspecting:
    """The part of `QueueClient` that looks, and sets limits."""

    _backstage: Stage
    _frame: Frame

    async def list_queues(self) -> list[QueueView]:
        """Every queue of the database with what is in it. Counts rows: for people, not for loops."""
        async with self._frame.statement() as connection:
            rows = await inspect.list_queues(connection)
        return [
            QueueView(
                name=row.name,
                kind=row.kind,
                paused_at=row.paused_at,
                paused_by=row.paused_by,
                pause_reason=row.pause_reason,
                limits=msgspec.json.decode(row.limits),
                processes=row.processes,
                ready=row.ready,
                running=row.running,
                later=row.later,
                dead=row.dead,
                oldest=None if row.oldest_s is None else timedelta(seconds=row.oldest_s),
            )
            for row in rows
        ]

    async def list_jobs(self, *, queue: Any = None, state: JobState | None = None, limit: int = 100) -> list[JobView]:
        """Jobs, newest first, of one queue or all; in one state, or in all but done.

        "ready" are also those behind a limit, "later" those that wait for a time, for other jobs or for a signal.

        Raises:
            NotRegistered: no queue of that name.
        """
        if state is not None and state not in get_args(JobState):
            raise UsageError(f"state must be one of {', '.join(get_args(JobState))}, not {state!r:.40}.")
        if type(limit) is not int or not 1 <= limit <= 10_000:
            raise UsageError(f"limit must be a whole number from 1 to 10000, not {limit!r:.40}.")
        name = None if queue is None else queue_name(queue)
        async with self._frame.statement() as connection:
            id = None
            if name is not None:
                id = (await queues.list_ids(connection)).get(name)
                if id is None:
                    raise NotRegistered("queue", name, await queues.list_names(connection))
            rows = await inspect.list_jobs(connection, queue=id, state=state, most=limit)
        return [
            JobView(
                id=row.id,
                queue=row.queue,
                state=row.state,
                attempts=row.attempts,
                priority=row.priority,
                enqueued_at=row.enqueued_at,
                at=row.at,
                payload=row.payload,
            )
            for row in rows
        ]

    async def limit(self, queue: Any, limits: Limits | Literal["lifted"] | None) -> None:
        """Set the limits of a queue over those that code declares, field by field, until the next call.

        "lifted" leaves it without any; None gives code its word back. Held at once by every process, and kept when
        processes start.

        Raises:
            NotRegistered: no queue of that name.
        """
        stored: Mapping[str, object]
        match cast(object, limits):
            case None:
                stored = {}
            case "lifted":
                stored = _LIFTED
            case Limits() as given:
                stored = given.stored()
            case other:
                raise UsageError(f"limits must be Limits(...), 'lifted' or None, not {other!r:.60}.")
        async with self._frame.statement() as connection:
            name = queue_name(queue)
            id = await gates.override(connection, name=name, limits=stored)
            if id is None:
                raise NotRegistered("queue", name, await queues.list_names(connection))
            engine = self._backstage.engine
            self._frame.after_commit += [engine.look, lambda: engine.ready([id])]


class SyncInspecting:
    """The blocking face of `Inspecting`, whose verbs mean the same."""

    _client: Callable[[], Any]
    _wait: Waiter

    def list_queues(self) -> list[QueueView]:
        """See `Inspecting.list_queues`."""
        return self._wait(self._client().list_queues())

    def list_jobs(self, *, queue: Any = None, state: JobState | None = None, limit: int = 100) -> list[JobView]:
        """See `Inspecting.list_jobs`."""
        return self._wait(self._client().list_jobs(queue=queue, state=state, limit=limit))

    def limit(self, queue: Any, limits: Limits | Literal["lifted"] | None) -> None:
        """See `Inspecting.limit`."""
        self._wait(self._client().limit(queue, limits))
