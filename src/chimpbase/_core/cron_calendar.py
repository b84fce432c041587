"""The search for the occurrences of one cron expression in one time zone, in either direction.

Instants are whole seconds since the Unix epoch and wall-clock readings are written as if they were UTC, so a local day
is the interval from its number times 86400. Invariant: both directions give the same set of instants, in strict order.
Absent on purpose: parsing (`cron`), and any clock.

Days are matched by cronsim. Times are searched here, because cronsim 2.8 steps over minutes that exist when a zone
moves by half an hour (Lord Howe), may answer with a time before the one it was asked for in the second pass of an
overlap, and has no fixed-time rule for six fields.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

_DAY = 86400
_EPOCH = date(1970, 1, 1)
_SECOND = timedelta(seconds=1)
# any 28 years in a row without a skipped leap year hold all fourteen calendars, so a date not in them is never
_ALL_CALENDARS = (date(2000, 1, 1), date(2028, 1, 1))
_HORIZON_YEARS = 100


class _Clock:
    """The matching times of one day, as seconds since its midnight."""

    def __init__(self, hours: list[int], minutes: list[int], seconds: list[int]) -> None:
        self._hours, self._minutes, self._seconds = sorted(hours), sorted(minutes), sorted(seconds)

    def at_or_after(self, second: int) -> int | None:
        """Return the first match not before `second`, or None when the day has no more."""
        hour, rest = divmod(max(second, 0), 3600)
        minute, second = divmod(rest, 60)
        for h in self._hours[bisect_left(self._hours, hour) :]:
            if h > hour:
                return h * 3600 + self._minutes[0] * 60 + self._seconds[0]
            for m in self._minutes[bisect_left(self._minutes, minute) :]:
                if m > minute:
                    return h * 3600 + m * 60 + self._seconds[0]
                at = bisect_left(self._seconds, second)
                if at < len(self._seconds):
                    return h * 3600 + m * 60 + self._seconds[at]
        return None


class Calendar:
    """A cron expression in a zone. Days are matched by cronsim, times by `_Clock`, instants by the zone's offsets."""

    def __init__(self, cron: CronSim, zone: ZoneInfo) -> None:
        self._cron, self._zone = cron, zone
        self._months = cron.months
        hours, minutes, whole = list(cron.hours), list(cron.minutes), list(cron.seconds)
        self._clock = _Clock(hours, minutes, whole)
        # the last match before a time is the first one after it in a mirror
        self._mirror = _Clock([23 - h for h in hours], [59 - m for m in minutes], [59 - s for s in whole])
        self._is_fixed = not any(part.startswith("*") for part in cron.parts[:3])

    def at_or_after(self, second: int) -> int | None:
        """Return the first occurrence not before `second`, or None when a hundred years hold none."""
        for day in self._days(self._wall(second - 1) // _DAY, step=1):
            if self._is_fixed:
                # from the wall clock just before: a time inside a gap that ends now is still to come
                found = self._fixed_after(day, second, self._wall(second - 1) + 1)
            else:
                found = self._elapsed_after(day, second)
            if found is not None:
                return found
        return None

    def at_or_before(self, second: int) -> int | None:
        """Return the last occurrence not after `second`, or None when a hundred years hold none."""
        last_wall = self._last_wall(second)
        for day in self._days(last_wall // _DAY, step=-1):
            found = self._fixed_before(day, last_wall) if self._is_fixed else self._elapsed_before(day, second)
            if found is not None:
                return found
        return None

    def explain(self) -> str:
        """Say in words when this is due."""
        return f"{self._cron.explain()} ({self._zone.key})"

    def ever_fires(self) -> bool:
        """Tell whether any year has a matching day."""
        first, last = _ALL_CALENDARS
        return any(True for _ in self._days((first - _EPOCH).days, step=1, until=last))

    def _days(self, day: int, *, step: int, until: date | None = None) -> Iterator[int]:
        """Yield the matching days since the epoch, from `day` on, in either direction."""
        at = _EPOCH + timedelta(days=day)
        first_year, last_year = at.year - _HORIZON_YEARS, at.year + _HORIZON_YEARS
        while first_year <= at.year <= last_year and at != until:
            if at.month not in self._months:
                at = _other_month(at, step)
                continue
            if self._cron.match_day(at):
                yield (at - _EPOCH).days
            at += timedelta(days=step)

    def _fixed_after(self, day: int, second: int, from_wall: int) -> int | None:
        time = self._clock.at_or_after(from_wall - day * _DAY)
        while time is not None:
            instant = self._instant(day * _DAY + time)
            # in the second pass of an overlap the wall clock shows times that already had their turn
            if instant >= second:
                return instant
            time = self._clock.at_or_after(time + 1)
        return None

    def _fixed_before(self, day: int, last_wall: int) -> int | None:
        time = self._last_time(min(last_wall - day * _DAY, _DAY - 1))
        return None if time is None else self._instant(day * _DAY + time)

    def _elapsed_after(self, day: int, second: int) -> int | None:
        for start, end, offset in self._stretches(day):
            time = self._clock.at_or_after(max(start, second) + offset - day * _DAY)
            if time is not None and (found := day * _DAY + time - offset) < end:
                return found
        return None

    def _elapsed_before(self, day: int, second: int) -> int | None:
        for start, end, offset in reversed(self._stretches(day)):
            time = self._last_time(min(end - 1, second) + offset - day * _DAY)
            if time is not None and (found := day * _DAY + time - offset) >= start:
                return found
        return None

    def _last_time(self, time: int) -> int | None:
        if time < 0:
            return None
        mirrored = self._mirror.at_or_after(_DAY - 1 - min(time, _DAY - 1))
        return None if mirrored is None else _DAY - 1 - mirrored

    def _stretches(self, day: int) -> list[tuple[int, int, int]]:
        """Split a local day into (start, end, UTC offset): one entry on most days, two when the offset changes."""
        start, end = self._instant(day * _DAY), self._instant((day + 1) * _DAY)
        if start == end:  # a zone that crossed the date line left this day out
            return []
        before, after = self._offset(start), self._offset(end - 1)
        if before == after:
            return [(start, end, before)]
        change = self._change(start, end - 1)
        return [(start, change, before), (change, end, after)]

    def _wall(self, second: int) -> int:
        """Return the wall-clock reading at an instant, as if it were UTC."""
        return second + self._offset(second)

    def _last_wall(self, second: int) -> int:
        """Return the latest wall-clock reading shown at or before an instant, on its way through an overlap."""
        wall = self._wall(second)
        if (first_pass := self._instant(wall)) == second:
            return wall
        change = self._change(first_pass, second)
        return change - 1 + self._offset(change - 1)

    def _instant(self, wall: int) -> int:
        """Return the first instant whose wall clock shows `wall`, or the end of the gap that skips it."""
        reading = datetime.fromtimestamp(wall, UTC).replace(tzinfo=self._zone)
        early, late = (_in_seconds(reading.replace(fold=fold).utcoffset()) for fold in (0, 1))
        if early < late:  # a gap: the offset grows at an instant between the two readings
            return self._change(wall - late, wall - early)
        return wall - early

    def _offset(self, second: int) -> int:
        return _in_seconds(datetime.fromtimestamp(second, self._zone).utcoffset())

    def _change(self, low: int, high: int) -> int:
        """Return the first second in (low, high] with the UTC offset of `high`, which differs from that of `low`."""
        wanted = self._offset(high)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == wanted:
                high = middle
            else:
                low = middle
        return high


def _other_month(at: date, step: int) -> date:
    first = at.replace(day=1)
    return first - timedelta(days=1) if step < 0 else (first + timedelta(days=32)).replace(day=1)


def _in_seconds(offset: timedelta | None) -> int:
    return offset // _SECOND if offset is not None else 0
