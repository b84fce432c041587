"""One attempt of one job, as a handler sees it: what to do, and the fence under which to say that it is done.

An attempt is settled once: in the handler's own transaction through `settle`, or afterwards by the executor in a batch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from chimpbase._core.errors import LeaseLost
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.retry import Retry
from chimpbase._core.values import ClaimedJob, ProcessId, QueueId, QueueKind
from chimpbase._engine.failures import error_record
from chimpbase._pg.connection import Connection
from chimpbase._store import cancels, jobs

Outcome = Snooze | Cancel | DeadLetter | None


class Attempt:
    """A claimed job in the hands of its handler.

    `result` is what came of it, as JSON text, to be kept. `settled` becomes true once its end is committed; a handler
    that used `settle` sets it after its COMMIT.
    `was_read` becomes true once the payload has been read: what is wrong after that is the handler's.
    """

    __slots__ = ("job", "process", "queue_name", "result", "settled", "was_read")

    def __init__(self, *, job: ClaimedJob, process: ProcessId, queue_name: str) -> None:
        self.job, self.process, self.queue_name = job, process, queue_name
        self.settled = self.was_read = False
        self.result: str | None = None

    async def settle(self, connection: Connection, outcome: Outcome) -> None:
        """Write the end of this attempt as the last statement of the caller's transaction.

        Raises:
            LeaseLost: the job is held by nobody or by another attempt; the caller must roll back.
        """
        job = self.job
        match outcome:
            case None:
                done = jobs.Finished(job.id, job.attempt, "completed", self.result)
                held = await jobs.finish(connection, process=self.process, jobs=[done])
            case Cancel(reason=reason):
                cancelled = cancels.Cancelled(job.id, job.attempt, reason)
                held = await cancels.finish(connection, process=self.process, jobs=[cancelled])
            case Snooze(for_=delay):
                later = jobs.PutOff(job.id, job.attempt, delay, charged=False, error=None)
                held = await jobs.put_off(connection, process=self.process, jobs=[later])
            case DeadLetter(reason=reason):
                dead = jobs.Dead(
                    id=job.id,
                    attempt=job.attempt,
                    reason="rejected",
                    error=error_record(job.charged, "DeadLetter", reason),
                )
                held = await jobs.dead_letter(connection, process=self.process, jobs=[dead])
        if not held:
            raise LeaseLost(
                f"job {job.id} of queue {self.queue_name!r}: attempt {job.attempt} no longer holds its lease"
            )


Handler = Callable[[Attempt], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """How this process works one queue: `slots` attempts at a time, each for `timeout` at most."""

    queue: QueueId
    name: str
    kind: QueueKind
    run: Handler
    slots: int
    retry: Retry
    timeout: timedelta | None = None
