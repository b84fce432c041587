"""Faults: where a test may reach into every statement of the program.

A hook stands on both sides of each statement, BEGIN and COMMIT included. Invariant: without a hook nothing is paid.
What a hook raises is told apart by type: an `OSError` is a lost connection (before the statement was sent, or after the
server answered and the answer got lost), and so comes out as `Unreachable` or `OutcomeUnknown`; anything else comes out
as it is. Deliberately absent: any fault of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol


class StatementHook(Protocol):
    """Called around each statement, in its task; either method may be a coroutine function or a plain one."""

    def before(self, sql: str, args: Sequence[object]) -> Awaitable[None] | None:
        """The statement is about to be sent."""
        ...

    def after(self, sql: str, error: BaseException | None) -> Awaitable[None] | None:
        """The answer is here: `error` is the driver's exception or None."""
        ...
