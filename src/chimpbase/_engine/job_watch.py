"""Who waits, in this process, for which jobs to end. What they hear is a hint: they look for themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from chimpbase._core.values import JobId


class JobWatch:
    """Empty nearly always: who settles jobs asks `events` and `on_settled` first, which costs nothing."""

    __slots__ = ("events", "on_settled")

    def __init__(self) -> None:
        self.events: dict[JobId, set[asyncio.Event]] = {}
        self.on_settled: Callable[[], None] | None = None

    @contextmanager
    def watch(self, job: JobId) -> Generator[asyncio.Event]:
        """An event that is set whenever an attempt of that job was settled here."""
        settled = asyncio.Event()
        self.events.setdefault(job, set()).add(settled)
        try:
            yield settled
        finally:
            self.events[job].discard(settled)
            if not self.events[job]:
                del self.events[job]

    def tell(self, job: JobId) -> None:
        """An attempt of this job was settled."""
        for settled in self.events.get(job, ()):
            settled.set()
