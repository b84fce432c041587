"""Any order of enqueueing, admitting, ending, crashing, pausing, cancelling, changing limits and time.

No admission lets more through than the limits allow, and none less, and the order of keys holds.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase._core.limits import Limits
from tests.store.stories import KEYS, LIMITS, SECONDS, Event, events_of, told_often
from tests.store.story import Story, world_at

WHICH, DEMAND = st.integers(0, 1), st.integers(1, 6)
HOWS = ["finish", "finish", "finish", "fail", "fail", "snooze", "give back", "bury", "unreachable"]
#: What may happen, and how often beside the rest.
EVENTS: list[Event] = [
    (
        6,
        Story.enqueue,
        {
            "key": KEYS,
            "priority": st.integers(0, 1),
            "number": st.integers(1, 3),
            "delay": st.sampled_from([None, None, None, 3.0]),
        },
    ),
    (10, Story.admit, {"which": WHICH, "demand": DEMAND}),
    (12, Story.end, {"which": st.integers(0, 20), "how": st.sampled_from(HOWS)}),
    (3, Story.wait, {"seconds": st.sampled_from([0.1, 1.0, 2.5, 30.0])}),
    (1, Story.claim, {"which": WHICH, "demand": DEMAND}),
    (2, Story.run_dry, {"which": WHICH}),
    (1, Story.crash, {"which": WHICH}),
    (1, Story.cancel, {"which": st.integers(0, 20)}),
    (1, Story.pause_and_resume, {"which": WHICH}),
    (1, Story.declare, {"limits": LIMITS}),
    (
        1,
        Story.override,
        {"override": st.sampled_from([{}, {}, {"concurrency": 2}, {"concurrency": None}, {"key_rate": None}])},
    ),
    (1, Story.prune, {}),
]


@pytest.mark.timeout(SECONDS)
def test_no_order_of_events_breaks_a_limit(dsn: str) -> None:
    with world_at(dsn) as world:

        @told_often(35)
        @given(limits=st.none() | LIMITS | LIMITS, events=st.lists(events_of(EVENTS), min_size=25, max_size=50))
        def tell(limits: Limits | None, events: list[tuple[int, dict[str, Any]]]) -> None:
            story = Story(world, limits)
            for n, arguments in events:
                EVENTS[n][1](story, **arguments)
                story.what_is_held_is_what_runs()

        tell()
