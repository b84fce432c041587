"""Goes on with work whose connection was lost. Deliberately absent: any judgement of what may be repeated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from chimpbase._core.errors import OutcomeUnknown, Unreachable

T = TypeVar("T")
_log = logging.getLogger("chimpbase.pg")

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


async def through_losses(
    work: Callable[[], Awaitable[T]],
    *,
    what: str,
    random: Callable[[], float],
    patience_s: float = 30.0,
    unless_unanswered: bool = False,
) -> T:
    """Do idempotent work, and again while it loses its connection, until `patience_s` after it first did.

    With `unless_unanswered` only where a server answered, if only to say that it is starting, stopping or full: for a
    first connection, where a wrong address should be told at once.

    Raises:
        Unreachable, OutcomeUnknown: what happened last when the patience was over.
    """
    loop, pause_s, give_up_at = asyncio.get_running_loop(), _FIRST_PAUSE_S, 0.0
    while True:
        try:
            return await work()
        except (Unreachable, OutcomeUnknown) as error:
            give_up_at = give_up_at or loop.time() + patience_s
            if loop.time() + pause_s > give_up_at or (unless_unanswered and error.sqlstate is None):
                raise
            _log.warning("%s is tried again: %s", what, error)
        await asyncio.sleep(pause_s * (0.5 + random() / 2))
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
