"""Outcomes: what a worker may return instead of a result. Raising means "this attempt failed"; these do not.

Invariant: a value here is complete and storable, because it is written in the same statement that ends the attempt.
Absent on purpose: success (any other value is one) and failure (an exception).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.text import scrub

MAX_REASON_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Snooze:
    """Run the same job again after `for_`, without counting this attempt. 0 seconds to 10 years.

    Raises: UsageError.
    """

    for_: timedelta

    def __post_init__(self) -> None:
        object.__setattr__(self, "for_", seconds(self.for_, subject="Snooze(for_=)"))


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the job as cancelled: it is no longer wanted. The handler's writes commit.

    Raises: UsageError.
    """

    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", _reason("Cancel", self.reason))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Put the job among the dead letters at once, whatever attempts are left. The handler's writes commit.

    Raises: UsageError.
    """

    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", _reason("DeadLetter", self.reason))


Outcome = Snooze | Cancel | DeadLetter


def _reason(outcome: str, reason: object) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise UsageError(
            f"{outcome}(reason=) must be a sentence, not {reason!r:.60}. Say why, for whoever reads it later."
        )
    return scrub(reason, limit_bytes=MAX_REASON_BYTES)
