"""Settles attempts in batches: done, later, dead, given back.

Each kind of end has its own coalescer, so one statement settles everything that ended while the last one ran. An end
that cannot be written because the database is away is tried again until it can, or until the lease is known to be lost;
the job stays leased meanwhile, and its slot taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from chimpbase._core.errors import DatabaseError, OutcomeUnknown
from chimpbase._core.values import ClaimedJob, JobId, ProcessId
from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import jobs

_BATCH = 1000
_LONGEST_PAUSE_S = 1.0

End = TypeVar("End", jobs.Finished, jobs.PutOff, jobs.Dead, ClaimedJob)


class Finisher:
    """Writes the ends of attempts that did not write their own."""

    def __init__(self, db: Db, *, process: Callable[[], ProcessId], random: Callable[[], float]) -> None:
        self._db = db
        self._process = process
        self._random = random
        self._finish = Coalescer(self._flush_finish, max_batch=_BATCH)
        self._put_off = Coalescer(self._flush_put_off, max_batch=_BATCH)
        self._dead_letter = Coalescer(self._flush_dead_letter, max_batch=_BATCH)
        self._give_back = Coalescer(self._flush_give_back, max_batch=_BATCH)

    async def finish(self, end: jobs.Finished) -> bool:
        """Remove a job as done. False: the lease was lost."""
        return await self._persist(self._finish, end)

    async def put_off(self, end: jobs.PutOff) -> bool:
        """Move a job to a later time. False: the lease was lost."""
        return await self._persist(self._put_off, end)

    async def dead_letter(self, end: jobs.Dead) -> bool:
        """Move a job to the dead letters. False: the lease was lost."""
        return await self._persist(self._dead_letter, end)

    async def give_back(self, job: ClaimedJob) -> bool:
        """Make a job ready again, uncharged. False: the lease was lost."""
        return await self._persist(self._give_back, job)

    async def close(self) -> None:
        """Write what is waiting."""
        for coalescer in (self._finish, self._put_off, self._dead_letter, self._give_back):
            await coalescer.close()

    async def _persist(self, coalescer: Coalescer[End, bool], end: End) -> bool:
        process, pause_s = self._process(), 0.05
        while True:
            try:
                return await coalescer.submit(end)
            except DatabaseError as error:
                # an unknown outcome may be asked for again: the fence answers "not held" to what was done already
                if not error.transient and not isinstance(error, OutcomeUnknown):
                    raise
                if self._process() != process:
                    return False
                await asyncio.sleep(pause_s * (0.5 + self._random()))
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def _flush_finish(self, ends: list[jobs.Finished]) -> Sequence[bool]:
        return await self._flush(jobs.finish, ends)

    async def _flush_put_off(self, ends: list[jobs.PutOff]) -> Sequence[bool]:
        return await self._flush(jobs.put_off, ends)

    async def _flush_dead_letter(self, ends: list[jobs.Dead]) -> Sequence[bool]:
        return await self._flush(jobs.dead_letter, ends)

    async def _flush_give_back(self, ends: list[ClaimedJob]) -> Sequence[bool]:
        return await self._flush(jobs.give_back, ends)

    async def _flush(self, settle: Callable[..., Awaitable[set[JobId]]], ends: list[End]) -> Sequence[bool]:
        # one lock order for every writer of many rows: by id
        ordered = sorted(ends, key=lambda end: end.id)
        connection: Connection
        async with self._db.acquire() as connection:
            held = await settle(connection, process=self._process(), jobs=ordered)
        return [end.id in held for end in ends]
