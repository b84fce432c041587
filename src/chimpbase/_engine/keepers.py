"""The small loops that keep jobs moving: outlook, promoter, rescuer, pruner.

The outlook is the only one that polls. It asks one question a second and wakes the others, so that everything works
with notifications lost or switched off, and an idle process costs about one query a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from time import perf_counter

from chimpbase._core.values import ProcessId, QueueId
from chimpbase._engine.failures import error_record
from chimpbase._engine.service import Service
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import (
    after,
    dead_letters,
    following,
    gates,
    jobs,
    outlook,
    partitions,
    processes,
    schedules,
    unique,
)

_BATCH = 1000
_ORPHANS_S = 60.0


class Lookout(Service):
    """Looks whether anything is due, `poll_s` apart, and tells who should act."""

    def __init__(
        self,
        db: Db,
        *,
        queues: Sequence[QueueId],
        poll_s: float,
        on_ready: Callable[[Sequence[QueueId]], None],
        on_gated: Callable[[Sequence[QueueId]], None],
        on_paused: Callable[[Sequence[QueueId]], None],
        promoter: Service,
        scheduler: Service,
        rescuer: Service,
        canceller: Service,
        striker: Service,
        on_awaited: Callable[[bool], None],
        consumers: Sequence[int],
        on_behind: Callable[[Sequence[int]], None],
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._queues, self._poll_s = db, queues, poll_s
        self._on_ready, self._on_gated, self._on_paused = on_ready, on_gated, on_paused
        self._canceller, self._striker = canceller, striker
        self._on_awaited, self._needs = on_awaited, 0
        self._consumers, self._on_behind = consumers, on_behind
        self._promoter, self._scheduler, self._rescuer = promoter, scheduler, rescuer

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            seen = await outlook.look(connection, queues=self._queues, consumers=self._consumers)
        self._on_gated(seen.gated)
        self._on_ready(seen.ready)
        self._on_paused(seen.paused)
        self._on_behind(seen.behind)
        for due_s, keeper in ((seen.later_s, self._promoter), (seen.schedule_s, self._scheduler)):
            if due_s is not None and due_s < self._poll_s:
                keeper.wake_in(due_s)
        if seen.died:
            self._rescuer.wake()
        if seen.cancels:
            self._canceller.wake()
        if seen.strikes:
            self._striker.wake()
        self._on_awaited(seen.awaited)
        if seen.awaited:
            async with self._db.acquire() as connection:
                self._needs = await after.resolve_missed(connection, since=self._needs, most=_BATCH)
            self._promoter.wake()
        # a little less than the poll, spread, so that many processes do not ask in step
        return self._poll_s * (0.9 + self._random() / 10)


class Promoter(Service):
    """Makes delayed and retrying jobs ready when they fall due."""

    def __init__(self, db: Db, *, on_ready: Callable[[Sequence[QueueId]], None], random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._on_ready = db, on_ready

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            promoted = await jobs.promote(connection, max_jobs=_BATCH)
        self._on_ready(promoted.queues)
        return 0 if promoted.count == _BATCH else promoted.next_s


class Rescuer(Service):
    """Takes jobs away from processes that gave no sign of life for a whole lease.

    `is_gone(host, pid)` may know better and sooner: a process of this very machine that no longer exists.
    """

    def __init__(
        self,
        db: Db,
        *,
        process: Callable[[], ProcessId],
        on_ready: Callable[[Sequence[QueueId]], None],
        is_gone: Callable[[str, int], bool],
        every_s: float,
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._process, self._on_ready = db, process, on_ready
        self._is_gone, self._every_s = is_gone, every_s
        self._orphans_at_s = 0.0

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            live = await processes.list_live(connection)
            gone = [one.id for one in live if one.id != self._process() and self._is_gone(one.host, one.pid)]
            dead = await processes.expire(connection, gone=gone)
            orphaned = await self._orphaned(connection)
        if not dead and not orphaned:
            return self._every_s
        for process in dead:
            if process.fresh:
                self._log.warning("process %s (pid %s on %s) is dead", process.id, process.pid, process.host)
        if orphaned:
            self._log.warning("processes %s hold jobs and have no row: somebody deleted it", orphaned)
        return self._every_s if await self._rescue([*(process.id for process in dead), *orphaned]) else 0.25

    async def _orphaned(self, connection: Connection) -> list[ProcessId]:
        """Processes that were deleted by hand. Looked for now and then only: it reads the whole table of jobs."""
        began_s = perf_counter()
        if began_s < self._orphans_at_s:
            return []
        orphaned = await jobs.list_orphaned(connection)
        ended_s = perf_counter()
        self._orphans_at_s = ended_s + max(_ORPHANS_S, 1000 * (ended_s - began_s))
        return orphaned

    async def _rescue(self, dead: list[ProcessId]) -> bool:
        """Whether nothing is left to take from them."""
        reason = "the process running this job died"
        async with self._db.acquire() as connection:
            rescued = await jobs.rescue(connection, processes=dead, error=error_record(0, "ProcessLost", reason))
            # a statement of its own: it also sees what the rescue had to skip
            left = await jobs.held_jobs(connection, processes=dead)
            if not left:
                await processes.remove(connection, processes=dead)
        self._on_ready([job.queue for job in rescued if not job.dead])
        if rescued:
            buried = sum(job.dead for job in rescued)
            self._log.warning("rescued %d jobs of dead processes; %d became dead letters", len(rescued), buried)
        return not left


class Pruner(Service):
    """Keeps the database small: days of history, old dead letters, old occurrences, names of unique jobs."""

    def __init__(
        self, db: Db, *, days_ahead: int, every_s: float, dead_age: timedelta, random: Callable[[], float]
    ) -> None:
        super().__init__(random=random)
        self._db, self._days_ahead, self._every_s = db, days_ahead, every_s
        self._dead_age, self._names = dead_age, unique.FROM_THE_START

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            kept, today = await partitions.oldest_kept(connection)
            days = set((await partitions.list_days(connection)).values())
            for ahead in range(self._days_ahead + 1):
                day = today + timedelta(days=ahead)
                if day not in days:
                    await partitions.create(connection, day=day)
            for day in sorted(day for day in days if day < kept):
                await partitions.drop(connection, day=day)
            swept = await schedules.prune(connection, age=timedelta(days=7), max_rows=_BATCH)
            swept = max(swept, await gates.prune(connection, max_rows=_BATCH))
            swept = max(swept, await dead_letters.prune(connection, age=self._dead_age, most=_BATCH))
            swept = max(swept, await following.sweep(connection, max_rows=_BATCH))
            self._names = await unique.sweep(connection, after=self._names, max_rows=_BATCH)
        return 0 if swept == _BATCH or self._names != unique.FROM_THE_START else self._every_s


class ServerKeeper(Service):
    """Keeps the private PostgreSQL of a project running, also when the process that started it has gone."""

    def __init__(self, ensure: Callable[[], Awaitable[None]], *, random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._ensure = ensure

    async def tick(self) -> float | None:
        await self._ensure()
        return 1.0
