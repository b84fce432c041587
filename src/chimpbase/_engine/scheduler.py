"""Turns due occurrences of schedules into jobs.

Any process may do it and none leads: a due schedule is locked by whoever comes first, and a unique (schedule, instant)
row is what makes an occurrence exist once. Instants are computed here, from the database's clock. A process fires the
schedules whose queues it works: those that nobody can run stay due, and their missed instants collapse by their policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from chimpbase._core.cron import Cadence, due, spread
from chimpbase._core.errors import UsageError
from chimpbase._core.values import DueSchedule, JobId, Misfire, QueueId
from chimpbase._engine.service import Service
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import schedules
from chimpbase._store.schedules import Plan

_BATCH = 5000
_TOLD_APART = 20
_WAITING_REST_S = 0.25
_ZERO = timedelta(0)
_log = logging.getLogger("chimpbase.cron")

#: Everything the instants of a schedule depend on, within one look at the clock.
_Aim = tuple[str, str, datetime, Misfire, int]
_Aimed = tuple[list[datetime], datetime]


class Scheduler(Service):
    """Fires what is due, up to a batch of each queue at a time."""

    def __init__(
        self,
        db: Db,
        *,
        queues: Sequence[QueueId],
        on_ready: Callable[[Sequence[QueueId]], None],
        on_later: Callable[[float], None],
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._queues = db, list(queues)
        self._on_ready, self._on_later = on_ready, on_later
        self._unreadable: set[tuple[str, str, str]] = set()

    async def tick(self) -> float | None:
        async with self._db.transaction() as connection:
            released = await self._release(connection)
            found = await schedules.list_due(connection, queues=self._queues, max_schedules=_BATCH)
            plans = await self._plan(connection, found) if found else []
            queues, later_s = await schedules.fire(connection, plans) if plans else ([], None)
        self._tell([plan for plan in plans if plan.due_at is not None])
        self._on_ready([*released, *queues])
        if later_s is not None:
            self._on_later(later_s)
        if len(found) >= _BATCH:
            return 0
        return _WAITING_REST_S if released or any(plan.waits for plan in plans) else None

    async def _release(self, connection: Connection) -> list[QueueId]:
        """Let what waited for the occurrence before run now."""
        waiting = await schedules.list_waiting(connection, queues=self._queues, max_schedules=_BATCH)
        if not waiting:
            return []
        busy = await schedules.list_unfinished(connection, [job for _, job in waiting if job is not None])
        return await schedules.release(connection, [name for name, job in waiting if job not in busy])

    async def _plan(self, connection: Connection, found: Sequence[DueSchedule]) -> list[Plan]:
        last = [one.last_job for one in found if one.overlap != "allow" and one.last_job is not None]
        busy = await schedules.list_unfinished(connection, last) if last else set[JobId]()
        aimed: dict[_Aim, _Aimed] = {}
        plans: list[Plan] = []
        overtaken: list[JobId] = []
        for schedule in found:
            try:
                instants, next_at = _aim(schedule, aimed)
            except UsageError as error:
                self._complain_once(schedule, error)
                continue
            if _overtakes(schedule, instants):
                overtaken += busy & {schedule.last_job}
            plans += _closed(schedule, list(_settle(schedule, instants, busy=schedule.last_job in busy)), next_at)
        if overtaken:
            await schedules.cancel(connection, overtaken, reason="the next occurrence of its schedule is due")
        return sorted(plans, key=_order)

    def _tell(self, plans: Sequence[Plan]) -> None:
        if len(plans) > _TOLD_APART:
            _log.info("%d occurrences due", len(plans))
            return
        for plan in plans:
            assert plan.due_at is not None
            what = "due at" if plan.state == "fired" else f"{plan.state}, due at"
            _log.info(
                "%s %s %s", plan.schedule, what, plan.due_at.isoformat(), extra={"data": {"schedule": plan.schedule}}
            )

    def _complain_once(self, schedule: DueSchedule, error: UsageError) -> None:
        """A schedule of a newer version, or of a host that knows more time zones; it stays due for who can read it."""
        key = (schedule.name, schedule.expression, schedule.tz)
        if key not in self._unreadable:
            self._unreadable.add(key)
            _log.warning("schedule %r cannot be fired by this process: %s", schedule.name, error)


def _aim(schedule: DueSchedule, known: dict[_Aim, _Aimed]) -> _Aimed:
    """The instants to settle and the next one. Schedules of one cadence are worked out once, however many there are."""
    aim = (schedule.expression, schedule.tz, schedule.next_at, schedule.misfire, schedule.max_missed)
    if aim not in known:
        known[aim] = due(
            Cadence(schedule.expression, schedule.tz),
            next_at=schedule.next_at,
            now=schedule.now,
            policy=schedule.misfire,
            limit=schedule.max_missed,
        )
    return known[aim]


def _settle(schedule: DueSchedule, instants: Sequence[datetime], *, busy: bool) -> Iterator[Plan]:
    """What becomes of instants, oldest first, by the schedule's policy for those that overlap."""
    taken = busy or schedule.waiting
    for number, instant in enumerate(instants):
        delay = _ZERO
        if schedule.jitter:
            delay = max(_ZERO, instant + spread(schedule.name, instant, schedule.jitter) - schedule.now)
        plan = Plan(schedule=schedule.name, due_at=instant, delay=delay)
        match schedule.overlap:
            case "allow":
                yield plan
            case "skip":
                yield replace(plan, state="skipped") if taken else plan
            case "queue":
                yield replace(plan, state="waiting") if taken else plan
            case "cancel_previous":
                yield plan if number == len(instants) - 1 else replace(plan, state="skipped")
        taken = True


def _overtakes(schedule: DueSchedule, instants: Sequence[datetime]) -> bool:
    """Whether the running occurrence has to end for a newer one; one that was fired before is no reason."""
    is_newer = bool(instants) and (schedule.last_at is None or instants[-1] > schedule.last_at)
    return schedule.overlap == "cancel_previous" and is_newer


def _order(plan: Plan) -> datetime:
    at = plan.due_at or plan.next_at
    assert at is not None  # a plan without either would do nothing
    return at


def _closed(schedule: DueSchedule, plans: list[Plan], next_at: datetime) -> list[Plan]:
    """The plans of a schedule, of which the last that fires a job moves the schedule on."""
    waits = any(plan.state == "waiting" for plan in plans)
    at = max((place for place, plan in enumerate(plans) if plan.state == "fired"), default=None)
    if at is None:
        return [*plans, Plan(schedule=schedule.name, next_at=next_at, waits=waits)]
    plans[at] = replace(plans[at], next_at=next_at, waits=waits)
    return plans
