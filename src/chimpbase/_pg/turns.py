"""Turns: one at a time, first come first served, without an object or a suspension where nobody waits."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """To be inherited by what is used by one at a time.

    `if self.busy: await self._wait_turn()`, then `self.busy = True`, and at the end, whatever happened, `_pass_turn()`.
    It is written out where it is used, for that is once for each statement.
    """

    __slots__ = ("_waiting", "busy")

    def __init__(self) -> None:
        #: Whether somebody has the turn.
        self.busy = False
        self._waiting: deque[asyncio.Future[None]] | None = None

    async def _wait_turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came, and the cancellation with it
                self._pass_turn()
            raise

    def _pass_turn(self) -> None:
        self.busy = False
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.busy = True
                turn.set_result(None)
                return
