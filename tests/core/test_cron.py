"""Cadences: what is refused when it is written, and what is due when."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from chimpbase._core.cron import Cadence, due, every
from chimpbase._core.errors import UsageError

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", "2026-11-23T12:01:00Z"),
        ("* * * * * *", "2026-11-23T12:00:01Z"),
        ("30 15 12 * * *", "2026-11-23T12:15:30Z"),
        ("*/5 * * * *", "2026-11-23T12:05:00Z"),
        ("0 9 * * 1-5", "2026-11-24T09:00:00Z"),
        ("0 9 * * mon-fri", "2026-11-24T09:00:00Z"),
        ("0 0 1 JAN *", "2027-01-01T00:00:00Z"),
        ("0 0 * * 0", "2026-11-29T00:00:00Z"),
        ("0 0 * * 7", "2026-11-29T00:00:00Z"),
        ("0 0 13 * 5", "2026-11-27T00:00:00Z"),
        ("0 0 L * *", "2026-11-30T00:00:00Z"),
        ("0 0 LW * *", "2026-11-30T00:00:00Z"),
        ("0 0 * * MON#2", "2026-12-14T00:00:00Z"),
        ("0 0 * * 5L", "2026-11-27T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0 0 * 2 MON#5", "2044-02-29T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("@weekly", "2026-11-29T00:00:00Z"),
        ("@daily", "2026-11-24T00:00:00Z"),
        ("@Midnight", "2026-11-24T00:00:00Z"),
        ("@hourly", "2026-11-23T13:00:00Z"),
        ("@every 5m", "2026-11-23T12:05:00Z"),
        ("  0   13 * * *  ", "2026-11-23T13:00:00Z"),
    ],
)
def test_the_next_occurrence_after_noon(expression: str, expected: str) -> None:
    cadence = Cadence(expression)
    assert cadence.next_after(NOON) == at(expected)
    assert cadence.next_after(NOON).tzinfo is UTC
    assert cadence.latest_until(at(expected)) == at(expected)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("60 * * * *", "minute '60'.*use 0-59"),
        ("* 24 * * *", "hour '24'.*use 0-23"),
        ("* * 0 * *", "day of month '0'.*use 1-31"),
        ("* * 32 * *", "day of month '32'"),
        ("* * * 13 *", "month '13'.*JAN-DEC"),
        ("* * * FOO *", "month 'FOO'"),
        ("* * * * 8", "day of week '8'.*SUN-SAT"),
        ("* * * * MON#6", "day of week"),
        ("* * * * 5L/2", "day of week '5L/2'"),
        ("60 * * * * *", "second '60'"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("-1 * * * *", "minute '-1'"),
        ("1.5 * * * *", "minute"),
        (", * * * *", "minute ','"),
        ("? * * * *", "minute '\\?'"),
        ("0 0 ? * 1", "day of month '\\?'"),
        ("\u0663 * * * *", "plain characters"),
        ("* * * * *\0", "day of week"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("", "1 to 256"),
        ("   ", "1 to 256"),
        ("1," * 200 + "1 * * * *", "1 to 256"),
        ("9" * 200 + " * * * *", "minute"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 2,4,6,9,11 *", "never fires"),
        ("0 0 31 11 */2", "never fires"),
        ("@reboot", "when the app starts"),
        ("@fortnightly", "use one of @yearly"),
        ("@every", "'@every'"),
        ("@every 5", "'@every'"),
        ("@every 0s", "must be 1s to 366d"),
        ("@every 500ms", "whole seconds"),
        ("@every 400d", "must be 1s to 366d"),
        ("every 5m", "2 fields"),
        (None, "must be text"),
    ],
)
def test_a_bad_expression_is_refused_when_it_is_written(expression: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Cadence(expression)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("tz", "words"),
    [
        ("Europe/Lisboa", "Did you mean 'Europe/Lisbon'"),
        ("lisbon", "Did you mean 'Europe/Lisbon'"),
        ("America/NewYork", "Did you mean 'America/New_York'"),
        ("", "IANA name"),
        ("../../etc/passwd", "not known"),
        ("Europe", "not known"),
        ("\0", "not known"),
        ("\ud800", "not known"),
        (None, "must be text"),
    ],
)
def test_an_unknown_zone_is_refused_with_a_near_one(tz: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Cadence("* * * * *", tz)


def test_a_zone_gives_the_wall_clock() -> None:
    cadence = Cadence("0 9 * * *", "America/New_York")
    assert cadence.next_after(at("2026-07-01T00:00:00Z")) == at("2026-07-01T13:00:00Z")
    assert cadence.next_after(at("2026-12-01T00:00:00Z")) == at("2026-12-01T14:00:00Z")
    local = at("2026-12-01T00:00:00Z").astimezone(ZoneInfo("Asia/Tokyo"))
    assert cadence.next_after(local) == at("2026-12-01T14:00:00Z")


def test_a_fraction_of_a_second_is_not_an_occurrence() -> None:
    cadence = Cadence("* * * * * *")
    half = NOON + timedelta(milliseconds=500)
    assert cadence.next_after(half) == NOON + timedelta(seconds=1)
    assert cadence.latest_until(half) == NOON


def test_a_naive_instant_is_refused() -> None:
    for ask in (Cadence("@daily").next_after, Cadence("@daily").latest_until):
        with pytest.raises(UsageError, match="no time zone"):
            ask(datetime(2026, 1, 1))


def test_occurrences_are_those_after_one_instant_and_until_another() -> None:
    cadence = Cadence("*/15 * * * *")
    assert cadence.occurrences(NOON, NOON + timedelta(hours=1), 10) == [NOON + n * 15 * MINUTE for n in (1, 2, 3, 4)]
    assert cadence.occurrences(NOON, NOON + timedelta(hours=1), 2) == [NOON + n * 15 * MINUTE for n in (1, 2)]
    assert cadence.occurrences(NOON, NOON, 10) == []
    assert cadence.occurrences(NOON, NOON + timedelta(days=1), 0) == []


def test_an_interval_is_counted_from_the_epoch() -> None:
    cadence = every(minutes=7)
    assert cadence == Cadence("@every 7m") == every(timedelta(minutes=7))
    found = cadence.occurrences(NOON, NOON + timedelta(hours=1), 100)
    assert {(instant - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(minutes=7) for instant in found} == {timedelta(0)}
    assert found == sorted(found)
    assert len(found) == 9
    assert every(hours=1, minutes=30) == every(timedelta(minutes=90))


def test_an_impossible_interval_is_refused() -> None:
    for wrong in (timedelta(0), timedelta(seconds=-1), timedelta(milliseconds=1500), timedelta(days=400)):
        with pytest.raises(UsageError):
            every(wrong)
    with pytest.raises(UsageError, match="no time zone"):
        Cadence("@every 5m", "Europe/Lisbon")


def test_a_cadence_explains_itself() -> None:
    assert Cadence("0 9 * * 1-5", "Europe/Lisbon").explain() == "At 09:00 on Monday through Friday (Europe/Lisbon)"
    assert Cadence("@daily").explain() == "At 00:00 every day (UTC)"
    assert every(minutes=5).explain().startswith("Every 5m")


def test_a_cadence_is_a_value() -> None:
    assert Cadence("@daily") == Cadence("@daily")
    assert Cadence("@daily") != Cadence("@daily", "Europe/Lisbon")
    assert repr(Cadence("@daily")) == "Cadence(expression='@daily', tz='UTC')"
    assert len({Cadence("@daily"), Cadence("@daily")}) == 1


def test_a_date_that_a_zone_left_out_has_no_occurrence() -> None:
    # Samoa went from 29 to 31 December 2011
    cadence = Cadence("0 */6 * * *", "Pacific/Apia")
    found = cadence.occurrences(at("2011-12-29T10:00:00Z"), at("2011-12-31T10:00:00Z"), 20)
    local = [instant.astimezone(ZoneInfo("Pacific/Apia")).day for instant in found]
    assert local == [29, 29, 29, 31, 31, 31, 31, 1]
    fixed = Cadence("0 12 30 12 *", "Pacific/Apia").next_after(at("2011-12-29T00:00:00Z"))
    assert fixed == at("2011-12-30T10:00:00Z")


def test_a_schedule_that_its_zone_always_skips_says_so() -> None:
    cadence = Cadence("*/5 1 * 3 7L", "Europe/London")
    with pytest.raises(UsageError, match="no occurrence after"):
        cadence.next_after(NOON)


NINE = at("2026-11-23T09:00:00Z")


@pytest.mark.parametrize(
    ("policy", "now", "expected"),
    [
        ("skip", NINE - MINUTE, []),
        ("last", NINE - timedelta(microseconds=1), []),
        ("skip", NINE, [NINE]),
        ("last", NINE, [NINE]),
        ("all", NINE, [NINE]),
        ("skip", NINE + MINUTE, [NINE]),
        ("skip", NINE + MINUTE + timedelta(microseconds=1), []),
        ("last", NINE + 14 * MINUTE, [NINE]),
        ("last", NINE + 47 * MINUTE, [NINE + 45 * MINUTE]),
        ("skip", NINE + 45 * MINUTE, [NINE + 45 * MINUTE]),
        ("all", NINE + 47 * MINUTE, [NINE + n * 15 * MINUTE for n in range(4)]),
    ],
)
def test_the_misfire_policy_decides_what_runs(policy: Any, now: datetime, expected: list[datetime]) -> None:
    instants, next_at = due(Cadence("*/15 * * * *"), next_at=NINE, now=now, policy=policy)
    assert instants == expected
    assert next_at > now
    assert next_at == (NINE if now < NINE else Cadence("*/15 * * * *").next_after(now))


def test_all_runs_the_latest_of_too_many_oldest_first() -> None:
    instants, _ = due(Cadence("* * * * *"), next_at=NINE, now=NINE + 500 * MINUTE, policy="all", limit=3)
    assert instants == [NINE + n * MINUTE for n in (498, 499, 500)]


def test_a_changed_expression_runs_only_its_own_occurrences() -> None:
    # next_at was stored for the expression of before
    assert due(Cadence("0 12 * * *"), next_at=NINE, now=NINE + MINUTE, policy="all") == ([], NOON)


@pytest.mark.parametrize("policy", ["skip", "last", "all"])
def test_years_of_missed_seconds_cost_no_more_than_one(policy: Any) -> None:
    cadence = Cadence("* * * * * *", "America/New_York")
    started_s = time.process_time()
    instants, next_at = due(cadence, next_at=at("2001-01-01T00:00:00Z"), now=NOON, policy=policy)
    # walking the 800 million seconds one by one takes hours
    assert time.process_time() - started_s < 5
    assert instants[-1] == NOON
    assert len(instants) == (100 if policy == "all" else 1)
    assert next_at == NOON + timedelta(seconds=1)
