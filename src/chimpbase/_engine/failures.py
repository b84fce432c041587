"""What follows from a failed attempt, and how the failure is written down. Pure decisions; no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from chimpbase._core.errors import JobExpired, OutcomeUnknown, Unreachable, UsageError
from chimpbase._core.retry import Retry
from chimpbase._core.terms import retry_of
from chimpbase._core.text import describe_exception, scrub
from chimpbase._core.values import ClaimedJob, DeathReason

_FREE_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Again:
    """Run the job once more after `delay`; `charged` counts the failed attempt against the limit."""

    delay: timedelta
    charged: bool


@dataclass(frozen=True, slots=True)
class Bury:
    """Nobody should run this job again by itself."""

    reason: DeathReason


def decide(
    job: ClaimedJob, retry: Retry, error: BaseException, *, was_read: bool, random: Callable[[], float]
) -> Again | Bury:
    """What to do with a job whose attempt ended with `error`.

    One that came after its deadline was not begun, and never will be. A database that went away, and a COMMIT whose
    outcome nobody knows, are not the job's fault: such an attempt is not charged - but not for ever, for a job may also
    be what ends its connection each time. A payload that does not fit its type (`was_read` is false) will not fit
    later, and what is not retried is hopeless, whatever attempts are left.
    """
    if isinstance(error, JobExpired) and job.expired:
        return Bury("expired")
    retry = retry_of(job.terms, retry)
    if isinstance(error, Unreachable | OutcomeUnknown) and job.uncharged < _FREE_ATTEMPTS:
        return Again(retry.delay(1, random=random), charged=False)
    if isinstance(error, UsageError) and not was_read:
        return Bury("unreadable")
    if not retry.retries(error):
        return Bury("hopeless")
    if job.charged >= (job.max_attempts or retry.max_attempts):
        return Bury("exhausted")
    return Again(retry.delay(job.charged, random=random), charged=True)


def error_record(attempt: int, kind: str, message: str) -> str:
    """One entry of a job's error history, as JSON text that PostgreSQL can always store."""
    record = {"attempt": attempt, "error": scrub(kind, limit_bytes=200), "message": scrub(message)}
    return msgspec.json.encode(record).decode()


def failure_record(attempt: int, error: BaseException) -> str:
    """One entry of a job's error history for an exception, whatever its `__str__` does."""
    return error_record(attempt, type(error).__name__, describe_exception(error))
