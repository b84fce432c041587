"""Planting: puts a statement hook on the connections of a runtime that is about to start, by the role they play."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from chimpbase._pg import lexer
from chimpbase._pg.db import Db

_RESET = "reset"
KILL = "kill"


class Bomb:
    """A statement hook: at the chosen one of the statements that count, the process dies or the connection does.

    `moment`: "before" it is sent; "unanswered", when the server has done it and nobody here has heard; "answered", when
    the answer is here. A reset that comes after the answer is met by the statement that follows.
    """

    def __init__(self, *, kind: str, moment: str, at: int, labels: Collection[str]) -> None:
        self.kind, self.moment, self.at, self.labels = kind, moment, at, labels
        self.armed, self.seen, self.went_off = False, 0, ""
        self.in_flight: Callable[[], None] | None = None
        self._fuse = False

    def before(self, sql: str, args: Sequence[object]) -> None:
        if self._fuse:
            self._fuse = False
            raise ConnectionResetError
        if not self._counts(sql):
            return
        self.seen += 1
        if self.seen == self.at:
            self.went_off = lexer.label(sql)
            if self.moment == "before":
                self._blow()
            elif self.moment == "unanswered" and self.kind == KILL and self.in_flight is not None:
                self.in_flight()

    def after(self, sql: str, error: BaseException | None) -> None:
        if self.seen != self.at or not self._counts(sql) or self.moment == "before" or error is not None:
            return
        self.at = -1
        if self.kind == _RESET and self.moment == "answered":
            self._fuse = True
        else:
            self._blow()

    def _counts(self, sql: str) -> bool:
        if not self.armed:
            return False
        return not self.labels or re.split(r"\W", lexer.label(sql).strip("`"), maxsplit=1)[0] in self.labels

    def _blow(self) -> None:
        self.at = -1
        if self.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ConnectionResetError


@contextmanager
def planted(hook: Any, *, where: str) -> Generator[None]:
    """Every `Db` of that role ("app", "engine", "heart") that is opened inside the block has the hook."""
    opened = Db.open.__func__  # type: ignore[attr-defined]

    async def open_hooked(cls: type[Db], dsn: str, **options: Any) -> Db:
        if options["application_name"].endswith(f" {where}"):
            options["hook"] = hook
        return await opened(cls, dsn, **options)

    Db.open = classmethod(open_hooked)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Db.open = classmethod(opened)  # type: ignore[assignment,method-assign]
