"""Watchdog: closes the socket of a statement that outlives its budget.

Cancelling a task does not free a connection whose peer is gone: the driver waits for an answer to its cancel request.
Closing the socket does.

Invariant: between `start` and `stop` the socket lives at most the budget, plus a moment in which a late event loop may
still read an answer that already arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

# When the loop was blocked past the deadline, the answer may be waiting in the socket while timers run first.
_SECOND_LOOK_S: Final = 0.05


class Watchdog:
    """One per connection. Its timer is left running between statements and looks at the deadline when it rings, so a
    statement costs a clock reading instead of a timer.
    """

    __slots__ = ("_bite", "_deadline", "_looked", "_loop", "_rings_at", "_timer", "fired")

    def __init__(self, loop: asyncio.AbstractEventLoop, bite: Callable[[], None]) -> None:
        """`bite` closes the socket; it is called at most once."""
        self._loop = loop
        self._bite = bite
        self._deadline = 0.0  # of the running statement, on the monotonic clock; 0 when none runs
        self._rings_at = 0.0
        self._looked = False
        self._timer: asyncio.TimerHandle | None = None
        self.fired = False

    def start(self, budget_s: float) -> None:
        """A statement begins."""
        deadline = monotonic() + budget_s
        self._deadline = deadline
        if self._timer is None or deadline < self._rings_at:
            self._arm(budget_s)

    def stop(self) -> None:
        """The statement has ended."""
        self._deadline = 0.0

    def close(self) -> None:
        """The connection is gone; the timer must not keep it alive."""
        self._deadline = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = monotonic() + delay_s
        self._looked = False
        self._timer = self._loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        left_s = self._deadline - monotonic()
        if left_s > 0:
            self._arm(left_s)
        elif not self._looked:
            self._arm(_SECOND_LOOK_S)
            self._looked = True
        else:
            self.fired = True
            self._deadline = 0.0
            self._bite()
