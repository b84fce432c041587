"""Cadence: when a schedule is due, as a pure function from instant to instant.

Invariant: an occurrence is an aware UTC datetime on a whole second, the same in every process, and `next_after(t) > t`.
Absent on purpose: the clock (callers bring the database's), rows, and jitter, which moves a job and never an
occurrence. The zone database is read through zoneinfo, the only file this room ever touches.

Daylight saving follows Debian's cron. An expression whose time fields are all fixed ("30 2 * * *") means a wall-clock
time: in a gap it runs once, right after the gap; in an overlap once, in the first pass. One with a star among them
("*/15 * * * *") follows elapsed time: it skips what the wall clock skips and repeats what it repeats.

cronsim parses and explains; the search over instants is in `cron_calendar`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Protocol, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from chimpbase._core.cron_calendar import Calendar
from chimpbase._core.durations import format_duration, parse_duration, seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.values import Misfire

GRACE = timedelta(seconds=60)
MAX_EXPRESSION_LENGTH = 256

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_LONGEST_INTERVAL = timedelta(days=366)
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = (
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31, L or LW"),
    ("month", "1-12 or JAN-DEC"),
    ("day of week", "0-7 or SUN-SAT, with 5L or MON#2"),
)


class _Rule(Protocol):
    """The search behind a cadence, over whole seconds since the Unix epoch."""

    def at_or_after(self, second: int) -> int | None: ...

    def at_or_before(self, second: int) -> int | None: ...

    def explain(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Cadence:
    """A cron expression in a time zone, or a fixed interval ("@every 5m", see `every`).

    Five fields (minute hour day-of-month month day-of-week), or six with seconds first; names, lists, ranges and steps;
    `L`, `LW`, `5L` and `MON#2` in the day fields; @yearly @annually @monthly @weekly @daily @midnight @hourly. Both day
    fields restricted mean "either", unless one begins with a star. `tz` is an IANA name.

    Raises: UsageError for an expression that is malformed or can never fire, or an unknown time zone.
    """

    expression: str
    tz: str = "UTC"
    _rule: _Rule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("expression", "tz"):
            value = cast(object, getattr(self, name))
            if not isinstance(value, str):
                raise UsageError(f"The {name} of a schedule must be text, not {type(value).__name__}.")
        object.__setattr__(self, "_rule", _rule_for(self.expression, self.tz))

    def next_after(self, instant: datetime) -> datetime:
        """Return the first occurrence after `instant`, which must be aware; the answer is in UTC.

        Raises: UsageError when a hundred years hold none.
        """
        found = self._rule.at_or_after(_to_second(instant) + 1)
        if found is None:
            raise UsageError(f"The schedule {self.expression!r} has no occurrence after {instant}. Check the dates.")
        return _to_instant(found)

    def latest_until(self, instant: datetime) -> datetime | None:
        """Return the last occurrence at or before `instant`, in UTC, or None when a hundred years hold none."""
        found = self._rule.at_or_before(_to_second(instant))
        return None if found is None else _to_instant(found)

    def occurrences(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return at most `limit` occurrences later than `after` and not later than `until`, oldest first."""
        return list(islice(self._between(_to_second(after) + 1, _to_second(until)), max(limit, 0)))

    def explain(self) -> str:
        """Say in words when this is due."""
        return self._rule.explain()

    def _between(self, first: int, last: int) -> Iterator[datetime]:
        while (found := self._rule.at_or_after(first)) is not None and found <= last:
            yield _to_instant(found)
            first = found + 1


def every(
    interval: timedelta | None = None,
    *,
    weeks: int = 0,
    days: int = 0,
    hours: int = 0,
    minutes: int = 0,
    seconds: int = 0,
) -> Cadence:
    """Return a cadence of a fixed interval of elapsed time, in whole seconds from 1 second to 366 days.

    Occurrences are multiples of the interval since 1970-01-01T00:00Z, so all processes agree and a restart moves
    nothing.

    Raises: UsageError.
    """
    if not isinstance(cast(object, interval), timedelta | None):
        raise UsageError(f"An interval is a timedelta, not {interval!r:.60}.")
    try:
        parts = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        whole = (interval or timedelta(0)) + parts
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"An interval is made of numbers from 1 second to 366 days in all: {error}.") from None
    return Cadence(f"@every {format_duration(_interval(whole))}")


def due(
    cadence: Cadence,
    *,
    next_at: datetime,
    now: datetime,
    policy: Misfire,
    limit: int = 100,
    grace: timedelta = GRACE,
) -> tuple[list[datetime], datetime]:
    """Decide which occurrences to run at `now`, oldest first, and when the schedule is due next.

    `next_at` is what was stored as due next. Of the occurrences from then to `now`, both included: "last" runs the
    latest, "all" the latest `limit`, "skip" the latest only if it is at most `grace` late. Before `next_at` nothing is
    due. The work does not grow with the time that was missed.
    """
    if now < next_at:
        return [], next_at
    # a fraction of a second in next_at must not lose the occurrence of that second's start
    first = _to_instant(_to_second(next_at))
    wanted = limit if policy == "all" else 1
    instants: list[datetime] = []
    found = cadence.latest_until(now)
    while found is not None and found >= first and len(instants) < wanted:
        instants.append(found)
        found = cadence.latest_until(found - _SECOND)
    if policy == "skip" and instants and now - instants[0] > grace:
        instants = []
    return instants[::-1], cadence.next_after(now)


def spread(name: str, instant: datetime, jitter: timedelta) -> timedelta:
    """Return by how much the job of an occurrence is put off, up to `jitter`; every process has the same answer."""
    digest = blake2b(f"{_to_second(instant)}\0{name}".encode(), digest_size=7).digest()
    return jitter * (int.from_bytes(digest) / 2**56)


class _Interval:
    def __init__(self, interval: timedelta) -> None:
        self._interval = interval
        self._every_s = interval // _SECOND

    def at_or_after(self, second: int) -> int | None:
        return -(-second // self._every_s) * self._every_s

    def at_or_before(self, second: int) -> int | None:
        return second // self._every_s * self._every_s

    def explain(self) -> str:
        return f"Every {format_duration(self._interval)}, counted from 1970-01-01T00:00Z"


@lru_cache(maxsize=4096)
def _rule_for(expression: str, tz: str) -> _Rule:
    zone = _zone(tz)
    text = expression.strip()
    if text.startswith("@every"):
        if tz != "UTC":
            raise UsageError(f"{text!r} counts elapsed time and has no time zone. Leave out tz={tz!r}.")
        return _Interval(_interval(parse_duration(text.removeprefix("@every"), subject="The interval of '@every'")))
    calendar = Calendar(_parsed(text), zone)
    if not calendar.ever_fires():
        raise UsageError(
            f"The cron expression {expression!r} never fires: no year has such a day. Check day and month."
        )
    return calendar


def _parsed(text: str) -> CronSim:
    if not text or len(text) > MAX_EXPRESSION_LENGTH or not text.isascii():
        raise UsageError(f"The cron expression {text[:40]!a} must be 1 to {MAX_EXPRESSION_LENGTH} plain characters.")
    if text.lower() == "@reboot":
        raise UsageError(
            "'@reboot' is no time, and a durable schedule has no reboots. Do that work when the app starts."
        )
    if text.startswith("@"):
        if text.lower() not in _ALIASES:
            known = ", ".join((*_ALIASES, "@every 5m"))
            raise UsageError(f"The cron alias {text!r} is not known; use one of {known}.")
        text = _ALIASES[text.lower()]
    parts = text.split()
    if len(parts) not in (5, 6):
        raise UsageError(f"The cron expression {text!r} has {len(parts)} fields; write 5, or 6 with seconds first.")
    try:
        return CronSim(text, _EPOCH)
    except (CronSimError, AssertionError, ValueError, TypeError):
        raise _field_error(text, parts) from None


def _field_error(text: str, parts: list[str]) -> UsageError:
    for (name, allowed), part in zip(_FIELDS[-len(parts) :], parts, strict=True):
        alone = ["*"] * 6
        alone[[n for n, _ in _FIELDS].index(name)] = part
        try:
            CronSim(" ".join(alone), _EPOCH)
        except (CronSimError, AssertionError, ValueError, TypeError):
            return UsageError(
                f"The {name} {part!r} of the cron expression {text!r} is not valid; use {allowed}, *, lists or steps."
            )
    # each field is right alone: cronsim knows already that the month never has that day
    return UsageError(f"The cron expression {text!r} never fires: no year has such a day. Check day and month.")


def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = {name.lower(): name for name in available_timezones()}
        # people remember the city: "lisbon" is near to no key as a whole
        cities = {name.rsplit("/", 1)[-1]: name for name in known}
        close = get_close_matches(tz.lower(), known, n=1) or [
            cities[city] for city in get_close_matches(tz.lower().rsplit("/", 1)[-1], cities, n=1)
        ]
        hint = f"Did you mean {known[close[0]]!r}?" if close else "Use an IANA name such as 'Europe/Lisbon'."
        raise UsageError(f"The time zone {tz[:60]!a} is not known. {hint}") from None


def _interval(value: timedelta) -> timedelta:
    if value % _SECOND:
        raise UsageError(f"An interval must be whole seconds, not {value}. Round it.")
    return seconds(value, subject="The interval of a schedule", minimum=_SECOND, maximum=_LONGEST_INTERVAL)


def _to_second(instant: datetime) -> int:
    if instant.utcoffset() is None:
        raise UsageError(f"{instant} has no time zone. Pass an aware datetime, such as datetime.now(timezone.utc).")
    return (instant - _EPOCH) // _SECOND


def _to_instant(second: int) -> datetime:
    return _EPOCH + timedelta(seconds=second)
