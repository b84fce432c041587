"""Durations: what a caller wrote, turned into a bounded `timedelta` once, at the door.

Invariant: a duration that passed here is finite, not negative unless the door allows it, and inside the door's limits,
so no statement below ever sees NaN or an interval PostgreSQL cannot hold. Absent on purpose: months and years, which
have no fixed length, and any reading of a clock.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import cast

from chimpbase._core.errors import UsageError

ZERO = timedelta(0)
TEN_YEARS = timedelta(days=3653)

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|[smhdw])")
_TEXT_FORM = "a number and a unit, such as '90s', '5m', '1h30m' or '3d' (ms, s, m, h, d, w)"


def seconds(
    value: timedelta | float, *, subject: str, minimum: timedelta = ZERO, maximum: timedelta = TEN_YEARS
) -> timedelta:
    """Read `value`, a timedelta or a number of seconds, as a timedelta between `minimum` and `maximum`, both included.

    `subject` names the argument in the message. True and False are not numbers here.

    Raises: UsageError.
    """
    given = cast(object, value)
    if isinstance(given, timedelta):
        return _bounded(given, subject=subject, minimum=minimum, maximum=maximum)
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        kind = type(given).__name__
        raise UsageError(
            f"{subject} must be a timedelta or a number of seconds, not {kind}. Pass timedelta(seconds=...)."
        )
    if isinstance(given, float) and not math.isfinite(given):
        raise UsageError(f"{subject} is {given}; it must be a finite duration. Pass timedelta(seconds=...).")
    try:
        duration = timedelta(seconds=given)
    except OverflowError:
        sign = "under" if given < 0 else "over"
        limit = minimum if given < 0 else maximum
        raise UsageError(
            f"{subject} is {sign} its limit of {format_duration(limit)}. Pass a smaller duration."
        ) from None
    return _bounded(duration, subject=subject, minimum=minimum, maximum=maximum)


def parse_duration(text: str, *, subject: str, minimum: timedelta = ZERO, maximum: timedelta = TEN_YEARS) -> timedelta:
    """Read a duration written by a person: '90s', '5m', '1h30m', '250ms', '3d'. A unit is always needed.

    Raises: UsageError.
    """
    parts = _PART.findall(text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise UsageError(f"{subject} is {text[:40]!r}; write {_TEXT_FORM}.")
    try:
        duration = sum((float(number) * _UNITS[unit] for number, unit in parts), ZERO)
    except OverflowError:
        raise UsageError(f"{subject} is {text[:40]!r}, over its limit of {format_duration(maximum)}.") from None
    return _bounded(duration, subject=subject, minimum=minimum, maximum=maximum)


def format_duration(value: timedelta) -> str:
    """Write a duration as `parse_duration` reads it: '1h30m', '250ms', '0s'. Microseconds are cut off."""
    if value < ZERO:
        return "-" + format_duration(-value)
    rest, parts = value, ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        parts += f"{count}{unit}" if count else ""
    return parts or "0s"


def _bounded(value: timedelta, *, subject: str, minimum: timedelta, maximum: timedelta) -> timedelta:
    if minimum <= value <= maximum:
        return value
    limits = f"{format_duration(minimum)} to {format_duration(maximum)}"
    raise UsageError(f"{subject} is {format_duration(value)}; it must be {limits}. Pass a duration in that range.")
