"""Retry policies are values with a formula."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase._core.errors import NotRegistered, PayloadError, UsageError
from chimpbase._core.retry import MAX_ATTEMPTS, Retry

SECOND = timedelta(seconds=1)


def none() -> float:
    return 0.0


def most() -> float:
    return math.nextafter(1.0, 0.0)


def test_the_wait_doubles_up_to_its_cap() -> None:
    policy = Retry(first=SECOND, factor=2, cap=timedelta(seconds=10))
    assert [policy.delay(n, random=none).total_seconds() for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_jitter_only_shortens_and_by_its_share() -> None:
    policy = Retry(first=timedelta(seconds=8), jitter=0.25)
    assert policy.delay(1, random=none) == timedelta(seconds=8)
    assert policy.delay(1, random=most) == timedelta(seconds=6)
    assert Retry(first=SECOND, jitter=1).delay(1, random=most) == timedelta(0)
    assert Retry(first=SECOND, jitter=0).delay(1, random=most) == SECOND


def test_the_defaults_wait_out_a_night_and_no_longer_than_a_day() -> None:
    policy = Retry()
    longest = sum((policy.delay(n, random=none) for n in range(1, policy.max_attempts)), timedelta(0))
    expected = sum((policy.delay(n, random=lambda: 0.5) for n in range(1, policy.max_attempts)), timedelta(0))
    assert policy.max_attempts == 20
    assert timedelta(hours=6) < expected < longest < timedelta(hours=9)


@given(
    first=st.timedeltas(timedelta(0), timedelta(days=2)),
    more=st.timedeltas(timedelta(0), timedelta(days=300)),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
    attempt=st.integers(0, MAX_ATTEMPTS),
    luck=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_policy_waits_between_its_floor_and_its_cap(
    first: timedelta, more: timedelta, factor: float, jitter: float, attempt: int, luck: float
) -> None:
    policy = Retry(first=first, cap=first + more, factor=factor, jitter=jitter)
    full = policy.delay_before_jitter(attempt)
    slack = timedelta(microseconds=2)
    assert min(first, policy.cap) - slack <= full <= policy.cap
    assert full * (1 - jitter) - slack <= policy.delay(attempt, random=lambda: luck) <= full + slack
    assert full <= policy.delay_before_jitter(attempt + 1) + slack


def test_what_is_retried_follows_the_classes() -> None:
    policy = Retry(retry_on=(OSError, ValueError), give_up_on=(ConnectionError,))
    assert policy.retries(TimeoutError())
    assert policy.retries(ValueError())
    assert not policy.retries(ConnectionResetError())
    assert not policy.retries(KeyError())
    assert not Retry().retries(KeyboardInterrupt())


def test_a_wrong_program_or_payload_is_never_retried() -> None:
    everything = Retry(retry_on=(BaseException,))
    for error in (PayloadError("x"), UsageError("x"), NotRegistered("queue", "x")):
        assert not Retry().retries(error)
        assert not everything.retries(error)


def test_one_class_may_stand_for_a_tuple() -> None:
    one: Any = ValueError
    assert Retry(retry_on=one).retry_on == (ValueError,)


def test_seconds_may_stand_for_a_duration() -> None:
    brief: Any = 2
    assert Retry(first=brief).first == timedelta(seconds=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 1001},
        {"max_attempts": True},
        {"max_attempts": 2.0},
        {"first": timedelta(seconds=-1)},
        {"first": math.nan},
        {"first": timedelta(hours=2)},
        {"cap": timedelta(days=400)},
        {"factor": 0.5},
        {"factor": math.nan},
        {"factor": math.inf},
        {"factor": "2"},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": True},
        {"retry_on": ("ValueError",)},
        {"retry_on": (int,)},
        {"give_up_on": [ValueError]},
    ],
)
def test_an_impossible_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Retry(**wrong)


def test_policies_are_equal_by_value_and_hashable() -> None:
    assert Retry(max_attempts=3) == Retry(max_attempts=3)
    assert len({Retry(max_attempts=3), Retry(max_attempts=3)}) == 1
