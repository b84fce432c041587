"""What `ctx.queue` does to queues and jobs that are there already: cancel, pause, resume.

Each verb acts in the transaction of this call, and running processes hear of it after the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from chimpbase._app.queue_names import queue_name
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.errors import NotFound, NotRegistered, UsageError
from chimpbase._core.outcomes import MAX_REASON_BYTES
from chimpbase._core.text import scrub
from chimpbase._core.values import JobId, QueueId
from chimpbase._store import cancels, queues

if TYPE_CHECKING:
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

CancelAnswer = Literal["cancelled", "requested", "ended"]


class QueueOperations:
    """The part of `QueueClient` for operators and for programs that act as one."""

    _backstage: Stage
    _frame: Frame
    _origin: Origin

    async def cancel(self, job: Any, *, reason: str | None = None) -> CancelAnswer:
        """Cancel a job, given by its id or handle: one that waits is done at once, one that runs is asked to end.

        The answer is "cancelled", "requested" or "ended": it was done or dead before. What runs gets a
        `CancelledError` at its next `await`, within a second after the commit of this call; a plain `def` handler an
        error from its next verb of ctx. Its transaction is taken back, and the job ends as cancelled, without another
        attempt. A handler that does neither, or swallows the error, ends as it would have.

        Raises:
            NotFound: no such job, or it was done and its queue keeps no history.
            UsageError: it is the activation of a workflow run.
        """
        id, why = job_id(job), reason_text(reason)
        async with self._frame.statement() as connection:
            cancelled = await cancels.cancel(connection, job=id, reason=why)
            if cancelled.outcome == "requested":
                self._look()
        match cancelled.outcome:
            case "unknown":
                raise NotFound("job", id)
            case "activation":
                raise UsageError(
                    f"Job {id} is the activation of a workflow run and has no end of its own. Cancel the run: "
                    "ctx.workflow.cancel(run_id)."
                )
            case answer:
                return answer

    async def pause(self, queue: Any, *, reason: str | None = None, by: str | None = None) -> None:
        """Let nobody claim from a queue until `resume`: a worker's, or by definition or name any other's.

        `subscription:audit`, `cron:report` and `workflow:checkout@1` are such names. Jobs may still be enqueued, and
        those that run go on. `by` defaults to what this call is a part of; who paused it first, and why, stays.

        Raises:
            NotRegistered: no queue of that name.
        """
        who, why = by_text(by) or self._origin.cause, reason_text(reason)
        async with self._frame.statement() as connection:
            name = queue_name(queue)
            if await queues.pause(connection, name=name, by=who, reason=why) is None:
                raise NotRegistered("queue", name, await queues.list_names(connection))
            self._look()

    async def resume(self, queue: Any) -> None:
        """Let a queue be claimed from again. Nothing happens to one that is not paused.

        Raises:
            NotRegistered: no queue of that name.
        """
        async with self._frame.statement() as connection:
            name = queue_name(queue)
            id = await queues.resume(connection, name=name)
            if id is None:
                raise NotRegistered("queue", name, await queues.list_names(connection))
            self._ready(id)

    def _look(self) -> None:
        self._frame.after_commit.append(self._backstage.engine.look)

    def _ready(self, queue: QueueId) -> None:
        engine = self._backstage.engine
        self._frame.after_commit.append(lambda: engine.ready([queue]))


class SyncQueueOperations:
    """The blocking face of `QueueOperations`, whose verbs mean the same."""

    _client: Callable[[], Any]
    _wait: Waiter

    def cancel(self, job: Any, *, reason: str | None = None) -> CancelAnswer:
        """See `QueueOperations.cancel`."""
        return self._wait(self._client().cancel(job, reason=reason))

    def pause(self, queue: Any, *, reason: str | None = None, by: str | None = None) -> None:
        """See `QueueOperations.pause`."""
        self._wait(self._client().pause(queue, reason=reason, by=by))

    def resume(self, queue: Any) -> None:
        """See `QueueOperations.resume`."""
        self._wait(self._client().resume(queue))


def job_id(job: Any) -> JobId:
    """The id of a job that is given by its number or by its handle.

    Raises:
        UsageError: it is neither.
    """
    number = int(job) if isinstance(job, int) and not isinstance(job, bool) else getattr(job, "id", None)
    if type(number) is not int or not 0 < number < 2**63:
        raise UsageError(f"A job is given by its id, a whole number from 1, or by its handle, not {job!r:.60}.")
    return JobId(number)


def reason_text(reason: str | None) -> str | None:
    """A reason as it can be stored.

    Raises:
        UsageError: it is no sentence.
    """
    return _sentence(reason, "reason")


def by_text(by: str | None) -> str | None:
    """Who did it, as it can be stored.

    Raises:
        UsageError: it is no text.
    """
    return _sentence(by, "by")


def _sentence(given: Any, name: str) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip():
        raise UsageError(f"{name} must be a text that says something, not {given!r:.60}.")
    return scrub(given, limit_bytes=MAX_REASON_BYTES)
