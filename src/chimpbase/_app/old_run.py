"""An old run on its way to a newer version of its workflow."""

from __future__ import annotations

from typing import Any

import msgspec

from chimpbase._core.errors import NotFound
from chimpbase._core.values import LoadedRun


class OldRun:
    """What `migrate={1: function}` is given. Change `input`; rename or drop steps so that the new code finds them."""

    def __init__(self, run: LoadedRun) -> None:
        self.id, self.version = run.id, run.version
        self.input: Any = msgspec.json.decode(run.input)
        self._run = run
        self._keys: dict[str, str | None] = {}

    @property
    def steps(self) -> dict[str, Any]:
        """The results of the steps that are done, by key (`charge#1`)."""
        return {
            memo.key: None if memo.result is None else msgspec.json.decode(memo.result)
            for memo in self._run.steps.values()
            if memo.kind == "step"
        }

    def rename(self, key: str, new: str) -> None:
        """Let the new code find a step under another key.

        Raises:
            NotFound: no step of that key is done.
        """
        self._keys[self._known(key)] = new

    def drop(self, key: str) -> None:
        """Forget a step: the new code does it again if it asks for it.

        Raises:
            NotFound: no step of that key is done.
        """
        self._keys[self._known(key)] = None

    def changes(self) -> tuple[str, dict[str, str | None]]:
        """The input as JSON text, and the keys by their old ones, None to drop."""
        return msgspec.json.encode(self.input).decode(), self._keys

    def _known(self, key: str) -> str:
        if key not in self._run.steps:
            raise NotFound(f"step of run {self.id!r}", key)
        return key
