"""Scopes: which part of a run's code a verb was called from, so that its key is the same in every activation.

The run's own code is the root scope. Each task that it makes is a scope of its own, `t1/`, numbered in the order in
which the tasks first use a verb; a scope that was opened by name (gather, map) keeps its name. Whichever branch ends
first changes no key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

_Owned = tuple["asyncio.Task[object] | None", str]
_scope: ContextVar[_Owned] = ContextVar("chimpbase_scope", default=(None, ""))
_shielded: ContextVar[bool] = ContextVar("chimpbase_shielded", default=False)


class Scopes:
    """The scopes of one activation: how often each name was used in them, and what time it is in them."""

    __slots__ = ("_loop", "_tasks", "_times", "_uses", "tasks")

    def __init__(self, started_at: datetime) -> None:
        self._loop = asyncio.get_running_loop()
        self._uses: dict[str, int] = {}
        self._tasks: dict[str, int] = {}
        self._times: dict[str, datetime] = {"": started_at}
        #: Every task that used a verb, to be ended with the activation.
        self.tasks: set[asyncio.Task[object]] = set()

    def begin(self) -> None:
        """Make the task that calls this the root scope."""
        _scope.set((asyncio.current_task(self._loop), ""))
        if _shielded.get():  # it was inherited
            _shielded.set(False)

    def end(self) -> None:
        """Let go of the task that calls this: it holds its context, which would hold it until a collection."""
        _scope.set((None, ""))

    def prefix(self) -> str:
        """The scope of the task that calls this; opened at its first use."""
        task = asyncio.current_task(self._loop)
        owner, prefix = _scope.get()
        if owner is task:
            return prefix
        # the context was inherited from the task that made this one
        return self._own(task, prefix, f"t{self._next_task(prefix)}/")

    def name(self, name: str) -> str:
        """A name for scopes to be opened from here, such as `gather1`."""
        prefix = self.prefix()
        return f"{name}{self._next_task(prefix + name)}"

    def adopt(self, prefix: str) -> None:
        """Make the task that calls this act in a scope of another one, which waits for it."""
        task = asyncio.current_task(self._loop)
        _scope.set((task, prefix))
        if task is not None:
            self.tasks.add(task)

    def enter(self, outer: str, name: str) -> None:
        """Make the task that calls this the scope `name` inside `outer`."""
        self._own(asyncio.current_task(self._loop), outer, f"{name}/")

    def key(self, prefix: str, name: str) -> str:
        """The key of the next use of a name in a scope."""
        full = prefix + name
        count = self._uses[full] = self._uses.get(full, 0) + 1
        return f"{full}#{count}"

    def peek(self, name: str) -> str:
        """The key that the next use of a name will get."""
        full = self.prefix() + name
        return f"{full}#{self._uses.get(full, 0) + 1}"

    def time(self, prefix: str) -> datetime:
        """When the last verb of a scope was done."""
        return self._times[prefix]

    def passed(self, prefix: str, at: datetime) -> None:
        """A verb of a scope was done."""
        self._times[prefix] = max(at, self._times[prefix])

    @contextmanager
    def shield(self) -> Generator[None]:
        """What is done inside goes on though the run is being cancelled."""
        token = _shielded.set(True)
        try:
            yield
        finally:
            _shielded.reset(token)

    @property
    def shielded(self) -> bool:
        return _shielded.get()

    def _next_task(self, name: str) -> int:
        count = self._tasks[name] = self._tasks.get(name, 0) + 1
        return count

    def _own(self, task: asyncio.Task[object] | None, outer: str, name: str) -> str:
        prefix = outer + name
        _scope.set((task, prefix))
        self._times.setdefault(prefix, self._times[outer])
        if task is not None:
            self.tasks.add(task)
        return prefix
