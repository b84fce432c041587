"""Durations enter once, finite and bounded."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase._core.durations import TEN_YEARS, format_duration, parse_duration, seconds
from chimpbase._core.errors import UsageError


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, timedelta(0)), (1.5, timedelta(milliseconds=1500)), (timedelta(days=3), timedelta(days=3)), (TEN_YEARS,) * 2],
)
def test_numbers_are_seconds(value: Any, expected: timedelta) -> None:
    assert seconds(value, subject="delay") == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (1e300, "over its limit"),
        (-1e300, "under its limit"),
        (-1, "must be 0s to 3653d"),
        (timedelta(microseconds=-1), "must be"),
        (TEN_YEARS + timedelta(seconds=1), "must be"),
        (10**400, "over its limit"),
        (True, "not bool"),
        ("5m", "not str"),
        (None, "not NoneType"),
        (Decimal(1), "not Decimal"),
    ],
)
def test_anything_else_is_refused_with_the_subject(value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        seconds(value, subject="delay")
    assert str(caught.value).startswith("delay ")


def test_a_door_may_have_limits_of_its_own() -> None:
    limits = {"minimum": timedelta(seconds=1), "maximum": timedelta(minutes=1)}
    assert seconds(60, subject="poll", **limits) == timedelta(minutes=1)
    with pytest.raises(UsageError, match="poll is 500ms; it must be 1s to 1m"):
        seconds(0.5, subject="poll", **limits)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("3d", timedelta(days=3)),
        ("1h30m", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("1.5h", timedelta(minutes=90)),
        ("2w", timedelta(weeks=2)),
        (" 1m ", timedelta(minutes=1)),
        ("0s", timedelta(0)),
    ],
)
def test_a_person_may_write_units(text: str, expected: timedelta) -> None:
    assert parse_duration(text, subject="--for") == expected


@pytest.mark.parametrize(
    "text", ["", "5", "m", "-5m", "5 m", "5y", "1h 30m", "5mm", "NaNs", "٣s", "9" * 30 + "s", "99999999999w", "1e5s"]
)
def test_a_duration_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--for"):
        parse_duration(text, subject="--for")


@given(st.timedeltas(timedelta(0), TEN_YEARS).map(lambda value: value - value % timedelta(milliseconds=1)))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_written_is_read_back(value: timedelta) -> None:
    assert parse_duration(format_duration(value), subject="x") == value


def test_a_negative_duration_is_written_with_its_sign() -> None:
    assert format_duration(timedelta(seconds=-90)) == "-1m30s"
