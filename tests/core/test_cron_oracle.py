"""Daylight saving, judged by an oracle that walks the wall clock minute by minute and knows nothing of our search."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase._core.cron import Cadence

MINUTE = timedelta(minutes=1)
SPAN = timedelta(hours=26)

ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Havana",
    "America/New_York",
    "America/Santiago",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Europe/Lisbon",
    "Pacific/Chatham",
    "Pacific/Easter",
)
FIRST, LAST = datetime(2025, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)


def changes(zone: str) -> Iterator[datetime]:
    """The hour after each change of a zone's offset from UTC in the years 2025 to 2030."""
    tz, instant = ZoneInfo(zone), FIRST
    while instant < LAST:
        later = instant + timedelta(hours=1)
        if instant.astimezone(tz).utcoffset() != later.astimezone(tz).utcoffset():
            yield later
        instant = later


# (expression, (minutes, hours, days of week from Monday = 0), is every time field fixed)
EVERY = tuple(range(60)), tuple(range(24)), tuple(range(7))
EXPRESSIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]] = {
    "30 1 * * *": ((30,), (1,), EVERY[2], True),
    "30 2 * * *": ((30,), (2,), EVERY[2], True),
    "0,30 2 * * *": ((0, 30), (2,), EVERY[2], True),
    "15 0-3 * * *": ((15,), (0, 1, 2, 3), EVERY[2], True),
    "0 0 * * *": ((0,), (0,), EVERY[2], True),
    "59 23 * * *": ((59,), (23,), EVERY[2], True),
    "0-59/10 0-23 * * *": (tuple(range(0, 60, 10)), EVERY[1], EVERY[2], True),
    "45 1 * * 0": ((45,), (1,), (6,), True),
    "* * * * *": (*EVERY, False),
    "*/15 * * * *": ((0, 15, 30, 45), EVERY[1], EVERY[2], False),
    "30 * * * *": ((30,), EVERY[1], EVERY[2], False),
    "45 * * * *": ((45,), EVERY[1], EVERY[2], False),
    "*/10 0-2 * * *": (tuple(range(0, 60, 10)), (0, 1, 2), EVERY[2], False),
    "7 */2 * * 6,7": ((7,), tuple(range(0, 24, 2)), (5, 6), False),
}


@cache
def walk(zone: str, change: datetime) -> list[tuple[datetime, datetime]]:
    """Each minute around a change, with the wall-clock reading it shows."""
    start = change - SPAN
    tz = ZoneInfo(zone)
    instants = [start + MINUTE * n for n in range(2 * SPAN // MINUTE)]
    return [(instant, instant.astimezone(tz).replace(tzinfo=None)) for instant in instants]


def oracle(zone: str, change: datetime, expression: str) -> list[datetime]:
    minutes, hours, weekdays, is_fixed = EXPRESSIONS[expression]

    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours and wall.weekday() in weekdays

    walked = walk(zone, change)
    if not is_fixed:
        return [instant for instant, wall in walked if matches(wall)]
    found: set[datetime] = set()
    reading = walked[0][1]
    latest = reading - MINUTE
    for instant, wall in walked:
        # the clock may stay behind what it showed already (overlap) or leap over readings (gap)
        while latest < wall:
            latest += MINUTE
            if matches(latest):
                found.add(instant)
    return sorted(found)


@pytest.mark.parametrize("zone", ZONES)
def test_occurrences_are_those_of_the_walk(zone: str) -> None:
    for change in [*changes(zone), datetime(2026, 3, 1, tzinfo=UTC)]:
        first, last = walk(zone, change)[0][0], walk(zone, change)[-1][0]
        found = {text: Cadence(text, zone).occurrences(first - MINUTE, last, 10_000) for text in EXPRESSIONS}
        wrong = {text: instants for text, instants in found.items() if instants != oracle(zone, change, text)}
        assert wrong == {}, change


@pytest.mark.parametrize("zone", ZONES)
def test_a_step_of_the_walk_is_the_same_from_both_ends_and_from_between(zone: str) -> None:
    second = timedelta(seconds=1)
    for change in [*changes(zone), datetime(2026, 3, 1, tzinfo=UTC)][-3:]:
        for expression in EXPRESSIONS:
            expected = oracle(zone, change, expression)
            cadence = Cadence(expression, zone)
            for earlier, later in list(pairwise(expected))[:: max(1, len(expected) // 25)]:
                assert cadence.next_after(earlier) == later, expression
                assert cadence.next_after(later - second) == later, expression
                assert cadence.latest_until(later) == later, expression
                assert cadence.latest_until(later - second) == earlier, expression


def test_most_of_these_zones_do_change_in_these_years() -> None:
    counted = {zone: len(list(changes(zone))) for zone in ZONES}
    assert counted["Asia/Kathmandu"] == 0
    assert min(count for zone, count in counted.items() if zone != "Asia/Kathmandu") == 12
    assert sum(counted.values()) >= 132


def test_a_fixed_time_in_a_gap_runs_once_just_after_it() -> None:
    cadence = Cadence("0,30 2 * * *", "America/New_York")
    before = datetime(2026, 3, 8, 6, 59, 59, tzinfo=UTC)
    after = datetime(2026, 3, 8, 7, tzinfo=UTC)
    assert cadence.next_after(before) == after
    assert cadence.next_after(after) == datetime(2026, 3, 9, 6, tzinfo=UTC)


def test_a_fixed_time_in_an_overlap_runs_in_the_first_pass_only() -> None:
    cadence = Cadence("30 1 * * *", "America/New_York")
    first = datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    tomorrow = datetime(2026, 11, 2, 6, 30, tzinfo=UTC)
    assert cadence.next_after(first - MINUTE) == first
    # a quarter past one for the second time, when the wall clock says it is still to come
    for minutes in (1, 45, 60, 90):
        assert cadence.next_after(first + minutes * MINUTE) == tomorrow
        assert cadence.latest_until(first + minutes * MINUTE) == first


def test_six_fixed_fields_follow_the_same_rule() -> None:
    cadence = Cadence("15 30 2 * * *", "America/New_York")
    assert cadence.next_after(datetime(2026, 3, 8, 6, tzinfo=UTC)) == datetime(2026, 3, 8, 7, tzinfo=UTC)
    overlap = Cadence("15 30 1 * * *", "America/New_York")
    first = datetime(2026, 11, 1, 5, 30, 15, tzinfo=UTC)
    assert overlap.next_after(first) == first + timedelta(days=1, hours=1)


def test_a_star_among_the_seconds_follows_elapsed_time() -> None:
    cadence = Cadence("*/30 30 1 * * *", "America/New_York")
    first = datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    halves = [first + n * MINUTE for n in (0, 0.5, 60, 60.5)]
    assert cadence.occurrences(first - MINUTE, first + 90 * MINUTE, 10) == halves


def test_half_an_hour_loses_nothing_at_lord_howe() -> None:
    # cronsim's own iteration leaves out the second 01:30 of April and the 02:45 of October
    again = Cadence("30 * * * *", "Australia/Lord_Howe")
    assert again.next_after(datetime(2026, 4, 4, 14, 40, tzinfo=UTC)) == datetime(2026, 4, 4, 15, tzinfo=UTC)
    after_gap = Cadence("45 * * * *", "Australia/Lord_Howe")
    assert after_gap.next_after(datetime(2026, 10, 3, 15, 20, tzinfo=UTC)) == datetime(2026, 10, 3, 15, 45, tzinfo=UTC)


FIELD = st.sampled_from(["*", "*/7", "*/2"]) | st.integers(0, 23).map(str)
EXPRESSION = st.builds(
    "{} {} {} {} {}".format,
    FIELD | st.just("*/20"),
    FIELD,
    st.sampled_from(["*", "1", "*/5", "L", "15"]),
    st.sampled_from(["*", "3", "10-11"]),
    st.sampled_from(["*", "0", "MON-FRI", "*/3"]),
)


@given(
    EXPRESSION,
    st.sampled_from([*ZONES, "UTC"]),
    st.datetimes(datetime(2025, 1, 1), datetime(2030, 12, 31), timezones=st.just(UTC)),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_forwards_and_backwards_are_one_sequence(expression: str, zone: str, instant: datetime) -> None:
    cadence = Cadence(expression, zone)
    later = cadence.next_after(instant)
    assert later > instant
    assert cadence.latest_until(later) == later
    earlier = cadence.latest_until(later - timedelta(seconds=1))
    assert earlier is not None
    assert earlier <= instant
    assert cadence.next_after(earlier) == later
