"""The consumers of one process, started, woken and stopped together; and who keeps the days of streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta

from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import ProcessId
from chimpbase._engine.consumer import Consumer, Consuming
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import streams


class ConsumerGroup:
    """Wakes the right ones; each looks for itself."""

    def __init__(
        self, db: Db, works: Sequence[Consuming], *, process: Callable[[], ProcessId], random: Callable[[], float]
    ) -> None:
        self._consumers = [Consumer(db, one, process=process, random=random) for one in works]

    @property
    def services(self) -> Sequence[Consumer]:
        return self._consumers

    @property
    def ids(self) -> list[int]:
        """The consumers that this process works."""
        return [one.id for one in self._consumers]

    def appended(self, numbers: Collection[int]) -> None:
        """Something was appended to these streams."""
        for one in self._consumers:
            if one.stream in numbers:
                one.wake()

    def behind(self, ids: Iterable[int]) -> None:
        """These consumers have something to read."""
        wanted = set(ids)
        for one in self._consumers:
            if one.id in wanted:
                one.wake()

    def abandon(self) -> None:
        """The lease of this process is lost."""
        for one in self._consumers:
            one.abandon()

    async def drain(self, *, grace_s: float) -> None:
        """Let what runs end, then give it back."""
        await asyncio.gather(*(one.drain(grace_s=grace_s) for one in self._consumers))


class StreamKeeper(Service):
    """Makes the days of streams with a retention ahead, and drops those that are over."""

    def __init__(self, db: Db, *, days_ahead: int, every_s: float, random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._days_ahead, self._every_s = db, days_ahead, every_s

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            today, kept = await streams.list_kept(connection)
            for one in kept:
                days = {day.day: day.size for day in await streams.list_days(connection, stream=one.stream)}
                for ahead in range(self._days_ahead + 1):
                    if (day := today + timedelta(days=ahead)) not in days:
                        try:
                            await streams.create_day(connection, stream=one.stream, day=day)
                        except DatabaseError as error:
                            # a long transaction is at it; until the next round its entries are kept without their day
                            self._log.warning("day %s of stream %s is not made yet: %s", day, one.stream, error)
                            break
                size = sum(days.values())
                for day in sorted(day for day in days if day < today):
                    too_old = one.first is not None and day < one.first
                    too_large = one.max_bytes is not None and size > one.max_bytes
                    if not (too_old or too_large):
                        break
                    try:
                        await streams.drop_day(connection, stream=one.stream, day=day)
                    except DatabaseError as error:
                        # somebody reads it right now; the next round comes
                        self._log.warning("day %s of stream %s stays for now: %s", day, one.stream, error)
                        break
                    size -= days[day]
        return self._every_s
