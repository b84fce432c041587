"""What the stories of a queue are drawn from, and how many are told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from chimpbase._core.limits import Limits, Rate

#: More stories than the suite tells, other ones each time, and the shortest of those that break something.
CASES = int(os.environ.get("CHIMPBASE_TEST_CASES", "0"))
SECONDS = 180 + CASES

KEYS = st.sampled_from([None, "a", "a", "b", "c"])
RATES = st.none() | st.none() | st.builds(Rate, st.integers(1, 20), per=st.just(10), burst=st.integers(1, 5))
LIMITS = st.builds(
    lambda concurrency, most, rate, key_rate, ordered, fair: Limits(
        concurrency=concurrency,
        key_concurrency=None if ordered else most,
        rate=rate,
        key_rate=key_rate,
        ordered=ordered,
        fair=fair,
    ),
    st.sampled_from([None, 1, 2, 4]),
    st.sampled_from([None, None, 1, 2]),
    RATES,
    RATES,
    st.sampled_from([False, False, True, "pass"]),
    st.booleans(),
)


Event = tuple[int, Callable[..., None], dict[str, st.SearchStrategy[Any]]]


def events_of(events: Sequence[Event]) -> st.SearchStrategy[tuple[int, dict[str, Any]]]:
    """One of what may happen, by its place; how often beside the rest, its first member says."""
    return st.sampled_from([n for n, (weight, _, _) in enumerate(events) for _ in range(weight)]).flatmap(
        lambda n: st.tuples(st.just(n), st.fixed_dictionaries(events[n][2]))
    )


def told_often(cases: int) -> settings:
    """So many stories, always the same; or as many others as are asked for."""
    return settings(
        max_examples=CASES or cases,
        deadline=None,
        derandomize=not CASES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[Phase.generate, Phase.shrink] if CASES else [Phase.generate],
    )
