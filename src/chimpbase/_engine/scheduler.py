"""Turns due occurrences of cron schedules into jobs.

Any process may do it and none leads: a due schedule is locked by whoever comes first, and a unique (schedule, instant)
row is what makes an occurrence exist once. Instants are computed here, from the database's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from chimpbase._core.cron import Cadence, due
from chimpbase._core.errors import UsageError
from chimpbase._core.values import DueSchedule, QueueId
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import schedules

_BATCH = 1000
_log = logging.getLogger("chimpbase.cron")


class Scheduler(Service):
    """Fires what is due, up to a batch at a time."""

    def __init__(self, db: Db, *, on_ready: Callable[[Sequence[QueueId]], None], random: Callable[[], float]) -> None:
        super().__init__(random=random)
        self._db, self._on_ready = db, on_ready
        self._unreadable: set[tuple[str, str, str]] = set()

    async def tick(self) -> float | None:
        async with self._db.transaction() as connection:
            found = await schedules.list_due(connection, max_schedules=_BATCH)
            if not found:
                return None
            owed: list[schedules.Owed] = []
            next_ats: list[tuple[str, datetime]] = []
            for schedule in found:
                try:
                    instants, next_at = _plan(schedule)
                except UsageError as error:
                    self._complain_once(schedule, error)
                    continue
                next_ats.append((schedule.name, next_at))
                owed += [
                    schedules.Owed(schedule=schedule.name, due_at=instant, queue=schedule.queue, headers=None)
                    for instant in instants
                ]
            queues = await schedules.fire(connection, owed) if owed else []
            await schedules.advance(connection, next_ats)
        for one in owed:
            _log.info("%s due at %s", one.schedule, one.due_at.isoformat(), extra={"data": {"schedule": one.schedule}})
        self._on_ready(queues)
        return 0 if len(found) == _BATCH else None

    def _complain_once(self, schedule: DueSchedule, error: UsageError) -> None:
        """A schedule of a newer version, or of a host that knows more time zones; it stays due for who can read it."""
        key = (schedule.name, schedule.expression, schedule.tz)
        if key not in self._unreadable:
            self._unreadable.add(key)
            _log.warning("schedule %r cannot be fired by this process: %s", schedule.name, error)


def _plan(schedule: DueSchedule) -> tuple[list[datetime], datetime]:
    cadence = Cadence(schedule.expression, schedule.tz)
    return due(cadence, next_at=schedule.next_at, now=schedule.now, policy=schedule.misfire)
