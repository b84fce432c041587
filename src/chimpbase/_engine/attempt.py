"""One attempt of one job, as a handler sees it: what to do, and the fence under which to say that it is done.

An attempt is settled once: in the handler's own transaction through `settle`, or afterwards by the executor in a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from chimpbase._core.errors import DatabaseError, LeaseLost
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.retry import Retry
from chimpbase._core.values import CarriedJob, ClaimedJob, JobId, ProcessId, QueueId, QueueKind
from chimpbase._engine.failures import error_record
from chimpbase._pg.connection import Connection
from chimpbase._store import cancels, jobs

Outcome = Snooze | Cancel | DeadLetter | None


class Carried(NamedTuple):
    """Jobs that a handler enqueued, and what is to be called once they are committed."""

    jobs: Sequence[CarriedJob]
    after_commit: Sequence[Callable[[], object]]


class Attempt:
    """A claimed job in the hands of its handler.

    `result` is what came of it, as JSON text, to be kept. `settled` becomes true once its end is committed; a handler
    that used `settle` sets it after its COMMIT.
    `was_read` becomes true once the payload has been read: what is wrong after that is the handler's. `limit` is there
    while the attempt's timeout runs. `carried` is what is to be stored together with its end, when it opened no
    transaction.
    """

    __slots__ = ("carried", "job", "limit", "process", "queue_name", "result", "settled", "was_read")

    def __init__(self, job: ClaimedJob, process: ProcessId, queue_name: str) -> None:
        self.job, self.process, self.queue_name = job, process, queue_name
        self.settled = self.was_read = False
        self.result: str | None = None
        self.limit: asyncio.Timeout | None = None
        self.carried: Carried | None = None

    def hold_clock(self, *, most_s: float) -> Callable[[], None]:
        """Stop the clock of the attempt's timeout, for so long at most; it goes on when the answer is called."""
        limit, clock = self.limit, asyncio.get_running_loop().time
        due = None if limit is None else limit.when()
        if limit is None or due is None:
            return lambda: None
        left_s = due - clock()
        limit.reschedule(due + most_s)

        def go_on() -> None:
            if self.limit is limit and not limit.expired():
                limit.reschedule(clock() + left_s)

        return go_on

    def closing(self, outcome: Outcome) -> str | None:
        """The end of this attempt as a statement to be sent together with the COMMIT, if it is simple enough for that.

        Its failure, when the lease is lost, is what `lost_lease` knows.
        """
        if outcome is not None or self.result is not None:
            return None
        return jobs.settle(process=self.process, job=self.job.id, attempt=self.job.attempt)

    async def settle(self, connection: Connection, outcome: Outcome) -> None:
        """Write the end of this attempt as the last statement of the caller's transaction.

        Raises:
            LeaseLost: the job is held by nobody or by another attempt; the caller must roll back.
        """
        await settle(connection, [self], [outcome])


async def settle(connection: Connection, attempts: Sequence[Attempt], outcomes: Sequence[Outcome]) -> None:
    """Write the ends of attempts of one process, each with its outcome, as the last thing of the caller's transaction.

    Raises:
        LeaseLost: one of the jobs is held by nobody or by another attempt; the caller must roll back.
    """
    process, held = attempts[0].process, set[JobId]()
    done: list[jobs.Finished] = []
    cancelled: list[cancels.Cancelled] = []
    later: list[jobs.PutOff] = []
    dead: list[jobs.Dead] = []
    for attempt, outcome in zip(attempts, outcomes, strict=True):
        job = attempt.job
        match outcome:
            case None:
                done.append(jobs.Finished(job.id, job.attempt, attempt.result))
            case Cancel(reason=reason):
                cancelled.append(cancels.Cancelled(job.id, job.attempt, reason))
            case Snooze(for_=delay):
                later.append(jobs.PutOff(job.id, job.attempt, delay, charged=False, error=None))
            case DeadLetter(reason=reason):
                error = error_record(job.charged, "DeadLetter", reason)
                dead.append(jobs.Dead(id=job.id, attempt=job.attempt, reason="rejected", error=error))
    if done:
        held |= await jobs.finish(connection, process=process, jobs=done)
    if cancelled:
        held |= await cancels.finish(connection, process=process, jobs=cancelled)
    if later:
        held |= await jobs.put_off(connection, process=process, jobs=later)
    if dead:
        held |= await jobs.dead_letter(connection, process=process, jobs=dead)
    for attempt in attempts:
        if attempt.job.id not in held:
            raise _lease_lost(attempt)


def lost_lease(attempt: Attempt, error: BaseException) -> LeaseLost | None:
    """What it means when what `closing` gave has failed: the lease is lost, or None and it is another error."""
    return _lease_lost(attempt) if isinstance(error, DatabaseError) and error.sqlstate == "CB030" else None


def _lease_lost(attempt: Attempt) -> LeaseLost:
    return LeaseLost(
        f"job {attempt.job.id} of queue {attempt.queue_name!r}: attempt {attempt.job.attempt} no longer holds its lease"
    )


class Told:
    """What has been said to a running attempt before it is cancelled: that its process is `ending`, so that it is to be
    given back, or that it is `to_cancel` its job. Nothing, when the cancellation comes from elsewhere.
    """

    __slots__ = ("ending", "to_cancel")

    def __init__(self) -> None:
        self.ending = False
        self.to_cancel: cancels.Cancelled | None = None


Handler = Callable[[Attempt], Awaitable[Outcome]]
BatchHandler = Callable[[Sequence[Attempt]], Awaitable[Sequence[Outcome]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """How this process works one queue: `slots` attempts at a time, each for `timeout` at most.

    With `run_batch` each slot takes up to `batch` jobs that are there, and they end in one transaction.
    """

    queue: QueueId
    name: str
    kind: QueueKind
    run: Handler
    slots: int
    retry: Retry
    timeout: timedelta | None = None
    batch: int = 1
    run_batch: BatchHandler | None = None

    @property
    def places(self) -> int:
        """Jobs that can run at a time."""
        return self.slots * self.batch
