"""The terms of a schedule, as a decorator or `ctx.cron.schedule` takes them: checked once, at the door."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast, get_args

from chimpbase._core.cron import Cadence
from chimpbase._core.durations import ZERO, seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.values import Misfire, Overlap, ScheduleTerms

_DAY = timedelta(days=1)


def schedule_terms(
    name: str,
    cadence: str | Cadence,
    *,
    tz: str | None,
    misfire: Misfire,
    max_missed: int,
    overlap: Overlap,
    jitter: timedelta | float | None,
    payload: str | None = None,
) -> ScheduleTerms:
    """Check the terms; `payload` is JSON text.

    Raises: UsageError.
    """
    aim = _cadence(cadence, tz)
    _one_of("misfire", misfire, get_args(Misfire))
    _one_of("overlap", overlap, get_args(Overlap))
    if type(max_missed) is not int or not 1 <= max_missed <= 10_000:
        raise UsageError(f"max_missed must be a whole number from 1 to 10000, not {max_missed!r:.40}.")
    return ScheduleTerms(
        name=name,
        expression=aim.expression,
        tz=aim.tz,
        misfire=misfire,
        max_missed=max_missed,
        overlap=overlap,
        jitter=ZERO if jitter is None else seconds(jitter, subject="jitter", maximum=_DAY),
        payload=payload,
    )


def _cadence(given: str | Cadence, tz: str | None) -> Cadence:
    if not isinstance(cast("Any", given), Cadence):
        return Cadence(cast("str", given), "UTC" if tz is None else tz)
    aim = cast("Cadence", given)
    if tz is not None and tz != aim.tz:
        raise UsageError(
            f"The cadence {aim.expression!r} has a time zone of its own, {aim.tz!r}; leave out tz={tz!r:.60}."
        )
    return aim


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        words = [repr(one) for one in known]
        raise UsageError(f"{name} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r:.60}.")
