"""Crashes for rehearsals: the connection dies at one chosen checkpoint of a run, before it or right after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from chimpbase._pg import lexer

Moment = Literal["before", "after"]


class Crash:
    """A statement hook. Counts checkpoints: a run's own statements, and the commits of its steps.

    With `at` it strikes at that one, counted from 1, once: the statement is not sent, or its answer is lost.
    """

    def __init__(self, *, at: int | None = None, moment: Moment = "before") -> None:
        self.count = 0
        self.struck = False
        self._at, self._moment = at, moment
        self._last = ""
        self._here = False

    def before(self, sql: str, args: Sequence[object]) -> None:
        """See `StatementHook`."""
        self._last, last = lexer.label(sql), self._last
        self._here = self._last.startswith("runs.") or (self._last == "`commit`" and last.startswith("runs."))
        if self._here:
            self.count += 1
            self._strike("before")

    def after(self, sql: str, error: BaseException | None) -> None:
        """See `StatementHook`."""
        if self._here and error is None:
            self._strike("after")

    def _strike(self, moment: Moment) -> None:
        if not self.struck and self.count == self._at and moment == self._moment:
            self.struck = True
            raise ConnectionResetError("a rehearsed crash")
