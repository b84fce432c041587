"""Limits: how much of a queue may run at once, how often jobs may start, and in which order those of a key go.

Invariant: a limit is a value that the database judges; nothing is counted here. Absent on purpose: limits of one
process alone, which are its `concurrency`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast

from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError

_MOST = 1_000_000
_SHORTEST, _LONGEST = timedelta(milliseconds=1), timedelta(days=366)

Order = Literal[True, False, "pass"]


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` starts `per` time, and up to `burst` at once after a pause (default: `limit`). A token bucket.

    In any stretch of time `t`, at most `burst + limit * t / per` jobs start. Starts count, not ends; a retry is one.

    Raises: UsageError.

    Source: J. Turner, "New directions in communications (or which way to the information age?)", IEEE Communications
    Magazine 24(10), 1986: the leaky bucket as a meter.
    """

    limit: int
    per: timedelta
    burst: int

    def __init__(self, limit: int, *, per: timedelta | float, burst: int | None = None) -> None:
        _check_count("Rate(limit", limit)
        if burst is not None:
            _check_count("Rate(burst", burst)
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "per", seconds(per, subject="Rate(per=)", minimum=_SHORTEST, maximum=_LONGEST))
        object.__setattr__(self, "burst", limit if burst is None else burst)

    def stored(self) -> dict[str, float]:
        """As the queue's gate keeps it."""
        return {"limit": self.limit, "per": self.per.total_seconds(), "burst": self.burst}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for a queue in the whole fleet, whatever the number of processes. All are optional, and combine.

    `concurrency` is how many of its jobs run at once, `rate` how many start in a time. The others go by the `key=` that
    a job was enqueued with, such as a tenant: `key_concurrency` and `key_rate` hold for each key by itself; a job
    without a key knows only the limits of the queue. With `ordered`, the jobs of a key run one at a time, by priority
    and then as they were enqueued; one that failed and will run again holds up its key until it ends or is dead, or
    with `"pass"` lets others pass meanwhile. With `fair`, and wherever one of the limits of a key is set, keys take
    turns, so that nobody's million jobs delay another's one; priority then orders the jobs of a key.

    Raises: UsageError.
    """

    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: Rate | None = None
    key_rate: Rate | None = None
    ordered: Order = False
    fair: bool = False

    def __post_init__(self) -> None:
        for name in ("concurrency", "key_concurrency"):
            if getattr(self, name) is not None:
                _check_count(f"Limits({name}", getattr(self, name))
        for name in ("rate", "key_rate"):
            value = cast(object, getattr(self, name))
            if value is not None and not isinstance(value, Rate):
                raise UsageError(f"Limits({name}={value!r:.40}) must be a Rate, such as Rate(100, per=60).")
        given = cast(object, self.ordered)
        if not isinstance(given, bool) and given != "pass":
            raise UsageError(f"Limits(ordered={given!r:.40}) must be True, False or 'pass'.")
        if not isinstance(cast(object, self.fair), bool):
            raise UsageError(f"Limits(fair={self.fair!r:.40}) must be True or False.")
        if self.ordered and (self.key_concurrency or 1) > 1:
            raise UsageError(
                f"Limits(ordered={self.ordered!r}) runs the jobs of a key one at a time; it allows no "
                f"key_concurrency={self.key_concurrency}. Drop one of them."
            )

    @property
    def by_key(self) -> bool:
        """Whether anything here goes by the key of a job."""
        return bool(self.key_concurrency or self.key_rate or self.ordered or self.fair)

    def stored(self) -> dict[str, object]:
        """As the queue's gate keeps them; what is not limited is left out."""
        found: Mapping[str, object] = {
            "concurrency": self.concurrency,
            "key_concurrency": self.key_concurrency,
            "rate": self.rate and self.rate.stored(),
            "key_rate": self.key_rate and self.key_rate.stored(),
            "ordered": "pass" if self.ordered == "pass" else "strict" if self.ordered else None,
            "fair": self.fair or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= _MOST:
        raise UsageError(f"{name}={value!r:.40}) must be a whole number from 1 to {_MOST:,}.")
