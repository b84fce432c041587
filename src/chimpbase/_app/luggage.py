"""Luggage: the jobs that a handler enqueues before it has touched the database, and what is to follow their commit.

They travel in the batch that ends its job, and a transaction of its own is spared. Invariant: a handler that opens a
transaction after all stores them there first, so that its statements see them. Deliberately absent: whatever depends on
what the database holds, such as whether a job is unique; and the jobs of queues with limits, which may pass in the
order of their ids and so must have them when they are enqueued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from chimpbase._core.values import CarriedJob, JobId, QueueId
from chimpbase._pg.db import Db
from chimpbase._store import carried

#: More than this is better stored by a statement of its own: what ends a thousand jobs has room for that of each.
MOST_JOBS: Final = 16
MOST_CHARACTERS: Final = 16 * 1024
_BLOCK: Final = 256
_KEPT_S: Final = 10.0  # so long after a queue was first given limits, its jobs may still come with older ids


class Luggage:
    """What one handler has with it."""

    __slots__ = ("after_commit", "characters", "jobs")

    def __init__(self) -> None:
        self.jobs: list[CarriedJob] = []
        self.after_commit: list[Callable[[], None]] = []
        self.characters = 0

    def has_room(self, payloads: Sequence[str]) -> bool:
        """Whether these fit in."""
        size = self.characters + sum(map(len, payloads))
        return len(self.jobs) + len(payloads) <= MOST_JOBS and size <= MOST_CHARACTERS

    def put(self, jobs: Sequence[CarriedJob], after_commit: Callable[[], None]) -> None:
        """Take these along."""
        self.jobs += jobs
        self.characters += sum(len(one.new.payload) for one in jobs)
        self.after_commit.append(after_commit)


class JobIds:
    """Ids of jobs to come, drawn in blocks. `gated` are the queues that had limits when the last one was drawn."""

    def __init__(self, db: Db) -> None:
        self._db, self._ids, self._lock = db, list[JobId](), asyncio.Lock()
        self._stale_s = 0.0
        self.gated: set[QueueId] = set()

    async def draw(self, count: int) -> None:
        """See to it that so many are there, `_BLOCK` at most. Others may take them first."""
        async with self._lock:
            if not self._has(count):
                stale_s = monotonic() + _KEPT_S
                drawn, self.gated = await carried.draw(self._db, count=_BLOCK)
                # taken from the end, so the lowest is there
                self._ids, self._stale_s = drawn[::-1], stale_s

    def take(self, count: int) -> list[JobId] | None:
        """So many ids that nobody else has, in order; None when fewer are there."""
        if not self._has(count):
            return None
        taken = self._ids[-count:]
        del self._ids[-count:]
        return taken[::-1]

    def _has(self, count: int) -> bool:
        return len(self._ids) >= count and monotonic() < self._stale_s
