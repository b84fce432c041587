"""Runs one attempt from claim to settled end: handler, timeout, cancellation, outcome, retry decision.

Every way out of `run` leaves the job settled, or held by nobody here: a lost lease is only reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from chimpbase._core.errors import AttemptError, AttemptTimeout
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze
from chimpbase._core.text import name_and_message
from chimpbase._core.values import ClaimedJob, ProcessId
from chimpbase._engine.attempt import Attempt, Handling, Outcome
from chimpbase._engine.failures import Again, Bury, decide, error_record, failure_record
from chimpbase._engine.finisher import Finisher
from chimpbase._store import jobs

_log = logging.getLogger("chimpbase.job")


class Executor:
    """Runs attempts. `on_later` is told the delay of every job that was put off, so that somebody wakes for it."""

    def __init__(self, finisher: Finisher, *, random: Callable[[], float], on_later: Callable[[float], None]) -> None:
        self._finisher = finisher
        self._random = random
        self._on_later = on_later

    async def run(self, handling: Handling, job: ClaimedJob, *, process: ProcessId) -> None:
        """Run one attempt. Cancelling this gives the job back uncharged, and then raises `CancelledError`."""
        attempt = Attempt(job=job, process=process, queue_name=handling.name)
        started = asyncio.get_running_loop().time()
        try:
            outcome = await self._handle(handling, attempt)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                # nobody cancelled this attempt: it came out of something that the handler awaited
                await self._failed(handling, attempt, _contained(error))
                return
            # shielded: the job must be handed on even while everything around it is being cancelled
            await asyncio.shield(self._interrupted(handling, attempt))
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            await self._failed(handling, attempt, error if isinstance(error, Exception) else _contained(error))
        else:
            await self._succeeded(handling, attempt, outcome, asyncio.get_running_loop().time() - started)

    async def _handle(self, handling: Handling, attempt: Attempt) -> Outcome:
        timeout_s = handling.timeout.total_seconds() if handling.timeout else None
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await handling.run(attempt)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if attempt.settled:  # it ended in time; only its last answer was late
                return None
            raise AttemptTimeout(f"attempt took longer than {timeout_s:g} s") from error

    async def _succeeded(self, handling: Handling, attempt: Attempt, outcome: Outcome, seconds: float) -> None:
        held = attempt.settled or await self._settle(attempt, outcome)
        if isinstance(outcome, Snooze):
            self._on_later(outcome.for_.total_seconds())
        data = {**_data(handling, attempt.job), "outcome": _word(outcome), "seconds": round(seconds, 6)}
        if held:
            level = logging.DEBUG if handling.kind == "activation" else logging.INFO
            _log.log(
                level,
                "%s %s in %.1f ms",
                _title(handling, attempt.job),
                _word(outcome),
                seconds * 1e3,
                extra={"data": data},
            )
        else:
            _log.warning("lease lost: %s ended after its lease", _title(handling, attempt.job), extra={"data": data})

    async def _settle(self, attempt: Attempt, outcome: Outcome) -> bool:
        job = attempt.job
        match outcome:
            case None:
                return await self._finisher.finish(jobs.Finished(id=job.id, attempt=job.attempt, outcome="completed"))
            case Cancel():
                return await self._finisher.finish(jobs.Finished(id=job.id, attempt=job.attempt, outcome="cancelled"))
            case Snooze(for_=delay):
                later = jobs.PutOff(id=job.id, attempt=job.attempt, delay=delay, charged=False, error=None)
                return await self._finisher.put_off(later)
            case DeadLetter(reason=reason):
                record = error_record(job.charged, "DeadLetter", reason)
                return await self._finisher.dead_letter(
                    jobs.Dead(id=job.id, attempt=job.attempt, reason="rejected", error=record)
                )

    async def _failed(self, handling: Handling, attempt: Attempt, error: Exception) -> None:
        job, record = attempt.job, failure_record(attempt.job.charged, error)
        data = {**_data(handling, job), "error": name_and_message(error, limit_bytes=500)}
        match decide(job, handling.retry, error, random=self._random):
            case Again(delay=delay, charged=charged):
                held = await self._finisher.put_off(
                    jobs.PutOff(id=job.id, attempt=job.attempt, delay=delay, charged=charged, error=record)
                )
                self._on_later(delay.total_seconds())
                verdict = f"again in {_spell(delay)}"
            case Bury(reason=reason):
                held = await self._finisher.dead_letter(
                    jobs.Dead(id=job.id, attempt=job.attempt, reason=reason, error=record)
                )
                verdict = f"dead letter ({reason})"
        title = _title(handling, job)
        if not held:
            _log.warning("lease lost: %s failed after its lease", title, extra={"data": data})
            return
        _log.warning("%s failed: %s; %s", title, data["error"], verdict, exc_info=error, extra={"data": data})

    async def _interrupted(self, handling: Handling, attempt: Attempt) -> None:
        if not attempt.settled and await self._finisher.give_back(attempt.job):
            _log.info("%s given back, attempt not charged", _title(handling, attempt.job))


def _contained(error: BaseException) -> AttemptError:
    contained = AttemptError(f"{type(error).__name__} came out of the handler")
    contained.__cause__ = error
    return contained


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
