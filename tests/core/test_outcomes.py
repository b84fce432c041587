"""Outcomes are complete and storable when they exist."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from chimpbase._core.errors import UsageError
from chimpbase._core.outcomes import Cancel, DeadLetter, Snooze


def test_a_snooze_is_a_duration() -> None:
    brief: Any = 90
    assert Snooze(timedelta(minutes=1)).for_ == timedelta(minutes=1)
    assert Snooze(for_=brief) == Snooze(timedelta(seconds=90))


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, True, None, "5m", timedelta(days=4000)])
def test_an_impossible_snooze_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="Snooze"):
        Snooze(wrong)


@pytest.mark.parametrize("outcome", [Cancel, DeadLetter])
def test_a_reason_is_a_sentence_and_can_be_stored(outcome: type[Cancel | DeadLetter]) -> None:
    assert outcome("no stock\0").reason == "no stock\ufffd"
    assert len(outcome("x" * 100_000).reason) <= 2048
    wrong: Any
    for wrong in ("", "  ", None, 5):
        with pytest.raises(UsageError, match=outcome.__name__):
            outcome(wrong)
