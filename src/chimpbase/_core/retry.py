"""Retry: how often a failed attempt is repeated, and after how long.

Invariant: a policy is a value; it holds no state, and the randomness of its jitter is handed in. What has been tried is
in the database, never here. Absent on purpose: retrying in the process; each attempt is a row's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError

MAX_ATTEMPTS = 1000
_LONGEST = timedelta(days=366)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A retry policy for one worker, subscription, schedule or step.

    `max_attempts` counts the first try too. The wait after failed attempt `n` (from 1) is

        min(cap, first * factor ** (n - 1)) * (1 - jitter * random())

    with `random()` in [0, 1). `jitter=1` is AWS's full jitter, `jitter=0` none; the default 0.5 spreads a burst of
    failures over half the wait while it keeps a floor under it, so a dependency that is down is never hit at once
    again. The defaults wait 1 s, 2 s, 4 s ... 34 min, then an hour each time: twenty attempts over 6 to 8 hours, so an
    outage of a night is survived, and a job that can never succeed is among the dead letters the same day (Oban and
    graphile-worker allow 20 and 25 attempts, over days).

    An error is retried when it is an instance of `retry_on` and not of `give_up_on`. A UsageError is never retried: the
    program or the payload is wrong, and time does not mend it.

    Raises: UsageError.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    max_attempts: int = 20
    first: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    cap: timedelta = timedelta(hours=1)
    jitter: float = 0.5
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        _check_count(self.max_attempts)
        object.__setattr__(self, "first", seconds(self.first, subject="Retry(first=)", maximum=_LONGEST))
        object.__setattr__(self, "cap", seconds(self.cap, subject="Retry(cap=)", maximum=_LONGEST))
        if self.first > self.cap:
            raise UsageError(f"Retry(first={self.first}) is longer than Retry(cap={self.cap}). Raise the cap.")
        _check_number("factor", self.factor, minimum=1.0, maximum=100.0)
        _check_number("jitter", self.jitter, minimum=0.0, maximum=1.0)
        object.__setattr__(self, "retry_on", _check_types("retry_on", self.retry_on))
        object.__setattr__(self, "give_up_on", _check_types("give_up_on", self.give_up_on))

    def delay(self, attempt: int, *, random: Callable[[], float]) -> timedelta:
        """Return how long to wait after failed attempt number `attempt`, counted from 1. `random` answers in [0, 1)."""
        return self.delay_before_jitter(attempt) * (1.0 - self.jitter * random())

    def delay_before_jitter(self, attempt: int) -> timedelta:
        """Return the wait after failed attempt `attempt` as it would be without jitter; jitter only shortens it."""
        first_s, cap_s = self.first.total_seconds(), self.cap.total_seconds()
        if first_s == 0:
            return self.first
        # in logarithms: 100.0 ** 999 does not fit a float, and a policy may allow a thousand attempts
        growth = (max(attempt, 1) - 1) * math.log(self.factor)
        if growth >= math.log(cap_s / first_s):
            return self.cap
        return min(self.cap, self.first * self.factor ** (max(attempt, 1) - 1))

    def retries(self, error: BaseException) -> bool:
        """Tell whether `error` is worth another attempt. Does not look at how many there were."""
        if isinstance(error, (UsageError, *self.give_up_on)):
            return False
        return isinstance(error, self.retry_on)


def _check_count(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ATTEMPTS:
        raise UsageError(f"Retry(max_attempts={value!r:.40}) must be a whole number from 1 to {MAX_ATTEMPTS}.")


def _check_number(name: str, value: object, *, minimum: float, maximum: float) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and minimum <= value <= maximum
    if not good:  # NaN fails the comparison too
        raise UsageError(f"Retry({name}={value!r:.40}) must be a number from {minimum:g} to {maximum:g}.")


def _check_types(name: str, value: object) -> tuple[type[BaseException], ...]:
    given = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    types = tuple(item for item in given if isinstance(item, type) and issubclass(item, BaseException))
    if len(types) != len(given):
        raise UsageError(f"Retry({name}={value!r:.80}) must be a tuple of exception classes, such as (TimeoutError,).")
    return types
