"""Runs one attempt from claim to settled end: handler, timeout, cancellation, outcome, retry decision.

Every way out of `run` hands the job on: the handler's own transaction settled it, or the finisher will.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import TypeVar

from chimpbase._core.errors import AttemptError, AttemptTimeout, DatabaseError, JobExpired, OutcomeUnknown
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.text import name_and_message
from chimpbase._core.values import ClaimedJob, ProcessId
from chimpbase._engine.attempt import Attempt, Handling, Outcome, Told
from chimpbase._engine.failures import Again, Bury, decide, error_record, failure_record
from chimpbase._engine.finisher import Carrying, Finisher
from chimpbase._store import cancels, jobs

_log = logging.getLogger("chimpbase.job")
T = TypeVar("T")


class Executor:
    """Runs attempts. `on_later` is told the delay of every job that was put off, so that somebody wakes for it."""

    def __init__(
        self,
        finisher: Finisher,
        *,
        random: Callable[[], float],
        on_later: Callable[[float], None],
    ) -> None:
        self._finisher, self._random, self._on_later = finisher, random, on_later

    async def run(self, handling: Handling, job: ClaimedJob, process: ProcessId, told: Told) -> None:
        """Run one attempt. Cancelled when it was `told` that its process is ending, it gives the job back uncharged;
        when it was told to cancel its job, it ends it as cancelled.

        A cancellation that came from anywhere else is a failed attempt, like any other error.
        """
        attempt = Attempt(job, process, handling.name)
        started_s = perf_counter()
        if job.expired:
            self._failed(handling, attempt, JobExpired("the job was not begun by its not_after"))
            return
        try:
            work = handling.run(attempt)
            outcome = await (work if handling.timeout is None else _in_time(work, handling.timeout, (attempt,)))
        except asyncio.CancelledError as error:
            if told.ending:
                self._interrupted(handling, attempt)
                raise
            if attempt.settled:  # it came while the handler's COMMIT was under way
                self._succeeded(handling, attempt, None, started_s)
            elif told.to_cancel is not None:
                self._cancelled(handling, attempt, told.to_cancel.reason)
            else:
                self._failed(handling, attempt, _contained(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._failed(handling, attempt, error if isinstance(error, Exception) else _contained(error))
        else:
            self._succeeded(handling, attempt, outcome, started_s)

    async def run_batch(
        self, handling: Handling, claimed: Sequence[ClaimedJob], process: ProcessId, told: Told
    ) -> None:
        """Run one attempt of each of these jobs, together.

        A batch that fails runs again in halves, at once, until what fails it is alone: only that is charged with the
        failure. One that is cancelled for the sake of one of its jobs gives the others back, uncharged.
        """
        attempts = [Attempt(job, process, handling.name) for job in claimed]
        for attempt in attempts:
            if attempt.job.expired:
                self._failed(handling, attempt, JobExpired("the job was not begun by its not_after"))
        parts = deque([[attempt for attempt in attempts if not attempt.job.expired]])
        part: list[Attempt] = []
        try:
            while parts:
                part = parts.popleft()
                if part:
                    parts.extendleft(reversed(await self._run_part(handling, part)))
        except asyncio.CancelledError as error:
            for attempt in part:
                if attempt.settled:  # it came while the handler's COMMIT was under way
                    self._succeeded(handling, attempt, None, perf_counter())
            left = [attempt for one in (part, *parts) for attempt in one if not attempt.settled]
            if told.ending:
                for attempt in left:
                    self._interrupted(handling, attempt)
                raise
            asked = told.to_cancel
            for attempt in left:
                if asked is not None and (asked.id, asked.attempt) == (attempt.job.id, attempt.job.attempt):
                    self._cancelled(handling, attempt, asked.reason)
                elif asked is not None or attempt not in part:
                    self._interrupted(handling, attempt)
                else:
                    self._failed(handling, attempt, _contained(error))

    async def _run_part(self, handling: Handling, part: list[Attempt]) -> list[list[Attempt]]:
        """Run some attempts in one transaction; the halves to try instead, when one of them may be what fails all."""
        assert handling.run_batch is not None  # only then are there several
        started_s = perf_counter()
        try:
            work = handling.run_batch(part)
            outcomes = await (work if handling.timeout is None else _in_time(work, handling.timeout, part))
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if len(part) > 1 and _may_be_of_one(error):
                middle = len(part) // 2
                return [part[:middle], part[middle:]]
            contained = error if isinstance(error, Exception) else _contained(error)
            for attempt in part:
                self._failed(handling, attempt, contained)
        else:
            for attempt, outcome in zip(part, outcomes or [None] * len(part), strict=True):
                self._succeeded(handling, attempt, outcome, started_s)
        return []

    def _succeeded(self, handling: Handling, attempt: Attempt, outcome: Outcome, started_s: float) -> None:
        job = attempt.job
        if attempt.settled:
            self._finisher.settled(job)
        elif attempt.carried is not None:
            self._finisher.finish_with(
                Carrying(job.id, job.attempt, attempt.result, attempt.carried, partial(self._failed, handling, attempt))
            )
        elif outcome is None:
            self._finisher.finish(jobs.Finished(job.id, job.attempt, attempt.result))
        else:
            self._settle(attempt, outcome)
        if outcome is not None and isinstance(outcome, Snooze):
            self._on_later(outcome.for_.total_seconds())
        level = logging.DEBUG if handling.kind == "activation" else logging.INFO
        if _log.isEnabledFor(level):
            seconds, word = perf_counter() - started_s, _word(outcome)
            data = {**_data(handling, job), "outcome": word, "seconds": round(seconds, 6)}
            _log.log(level, "%s %s in %.1f ms", _title(handling, job), word, seconds * 1e3, extra={"data": data})

    def _settle(self, attempt: Attempt, outcome: Snooze | Cancel | DeadLetter) -> None:
        job = attempt.job
        match outcome:
            case Cancel(reason=reason):
                self._finisher.cancel(cancels.Cancelled(job.id, job.attempt, reason))
            case Snooze(for_=delay):
                self._finisher.put_off(jobs.PutOff(job.id, job.attempt, delay, charged=False, error=None))
            case DeadLetter(reason=reason):
                record = error_record(job.charged, "DeadLetter", reason)
                self._finisher.dead_letter(jobs.Dead(job.id, job.attempt, "rejected", record))

    def _failed(self, handling: Handling, attempt: Attempt, error: Exception) -> None:
        job, record = attempt.job, failure_record(attempt.job.charged, error)
        data = {**_data(handling, job), "error": name_and_message(error, limit_bytes=500)}
        match decide(job, handling.retry, error, was_read=attempt.was_read, random=self._random):
            case Again(delay=delay, charged=charged):
                self._finisher.put_off(jobs.PutOff(job.id, job.attempt, delay, charged=charged, error=record))
                self._on_later(delay.total_seconds())
                verdict = f"again in {_spell(delay)}"
            case Bury(reason=reason):
                self._finisher.dead_letter(jobs.Dead(job.id, job.attempt, reason, record))
                self._on_later(0.0)  # somebody may handle dead letters
                verdict = f"dead letter ({reason})"
        title = _title(handling, job)
        _log.warning("%s failed: %s; %s", title, data["error"], verdict, exc_info=error, extra={"data": data})

    def _cancelled(self, handling: Handling, attempt: Attempt, reason: str | None) -> None:
        self._finisher.cancel(cancels.Cancelled(attempt.job.id, attempt.job.attempt, reason))
        title, data = _title(handling, attempt.job), {**_data(handling, attempt.job), "outcome": "cancelled"}
        _log.info("%s cancelled while it ran (%s)", title, reason or "no reason given", extra={"data": data})

    def _interrupted(self, handling: Handling, attempt: Attempt) -> None:
        if attempt.settled:
            self._finisher.settled(attempt.job)
        else:
            self._finisher.give_back(attempt.job)
            _log.info("%s given back, attempt not charged", _title(handling, attempt.job))


def _contained(error: BaseException) -> AttemptError:
    contained = AttemptError(f"{type(error).__name__} came out of the handler")
    contained.__cause__ = error
    return contained


async def _in_time(work: Awaitable[T], timeout: timedelta, attempts: Sequence[Attempt]) -> T | None:
    timeout_s = timeout.total_seconds()
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            for attempt in attempts:
                attempt.limit = limit
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        if attempts[0].settled:  # they ended in time; only the last answer was late
            return None
        raise AttemptTimeout(f"attempt took longer than {timeout_s:g} s") from error
    finally:
        for attempt in attempts:
            attempt.limit = None


def _may_be_of_one(error: BaseException) -> bool:
    """Whether the others of a batch may do better without the one that failed it."""
    if isinstance(error, AttemptTimeout | OutcomeUnknown):
        return False
    return not (isinstance(error, DatabaseError) and error.transient)


def _title(handling: Handling, job: ClaimedJob) -> str:
    return f"{handling.name}#{job.id}" if job.charged <= 1 else f"{handling.name}#{job.id} (attempt {job.charged})"


def _data(handling: Handling, job: ClaimedJob) -> dict[str, object]:
    return {"queue": handling.name, "job": job.id, "attempt": job.charged}


def _word(outcome: Outcome) -> str:
    match outcome:
        case None:
            return "done"
        case Snooze(for_=delay):
            return f"snoozed for {_spell(delay)}"
        case Cancel(reason=reason):
            return f"cancelled ({reason})"
        case DeadLetter(reason=reason):
            return f"dead letter ({reason})"


def _spell(delay: timedelta) -> str:
    seconds = delay.total_seconds()
    return f"{seconds:.1f} s" if seconds < 120 else str(delay)
