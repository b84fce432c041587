"""Numbers that count something, checked once at the door."""

from __future__ import annotations

from typing import cast

from chimpbase._core.errors import UsageError


def check_whole(value: int, *, subject: str, minimum: int, maximum: int) -> int:
    """Return `value` if it is a whole number from `minimum` to `maximum`. True and False are not numbers here.

    Raises: UsageError.
    """
    given = cast(object, value)
    if isinstance(given, bool) or not isinstance(given, int) or not minimum <= given <= maximum:
        raise UsageError(f"{subject} must be a whole number from {minimum:,} to {maximum:,}, not {given!r:.40}.")
    return value
