"""`ctx.cron`: schedules that are made, changed and stopped at run time. Each verb is part of the unit of work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import msgspec

from chimpbase._app.definitions import Cron
from chimpbase._app.payloads import taken
from chimpbase._app.schedule_terms import schedule_terms
from chimpbase._app.tokens import Queue
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.codec import Codec
from chimpbase._core.cron import Cadence
from chimpbase._core.errors import NotFound, NotRegistered, UsageError, WrongState
from chimpbase._core.names import check_key
from chimpbase._core.values import INTERNAL_QUEUES, JobId, Misfire, Overlap, StoredSchedule
from chimpbase._store import schedules

if TYPE_CHECKING:
    from chimpbase._app.definitions import Worker
    from chimpbase._app.origin import Origin
    from chimpbase._app.registry import Registry
    from chimpbase._app.stage import Stage

T = TypeVar("T")
_UNSET: Any = object()
_MOST_ROWS, _MOST_INSTANTS = 10_000, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as it stands. `to` is the queue or the `@cron` that it runs; `declared` when code declares it.

    `next_at` is when it is due next, paused or not; `last_at` the last instant that became a job. `payload` is of JSON
    types.
    """

    name: str
    expression: str
    tz: str
    to: str
    payload: Any
    misfire: Misfire
    max_missed: int
    overlap: Overlap
    jitter: timedelta
    declared: bool
    paused_at: datetime | None
    next_at: datetime
    last_at: datetime | None

    @property
    def cadence(self) -> Cadence:
        """When it is due, as a value that can be asked.

        Raises:
            UsageError: this process cannot read it: it knows fewer time zones than the one that stored it.
        """
        return Cadence(self.expression, self.tz)


# named out here, since inside the clients `list` is a verb
Schedules = list[Schedule]
Instants = list[datetime]


class CronClient:
    """Makes, changes and stops schedules in the transaction of this call. Names have 1 to 512 bytes."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    @overload
    async def schedule(
        self,
        name: str,
        cadence: str | Cadence,
        *,
        to: Worker[T, Any] | Queue[T] | Cron[T],
        payload: T = ...,
        tz: str | None = None,
        misfire: Misfire = "last",
        max_missed: int = 100,
        overlap: Overlap = "allow",
        jitter: timedelta | float | None = None,
    ) -> Schedule: ...
    @overload
    async def schedule(
        self,
        name: str,
        cadence: str | Cadence,
        *,
        to: str,
        payload: Any = None,
        tz: str | None = None,
        misfire: Misfire = "last",
        max_missed: int = 100,
        overlap: Overlap = "allow",
        jitter: timedelta | float | None = None,
    ) -> Schedule: ...
    async def schedule(
        self,
        name: str,
        cadence: str | Cadence,
        *,
        to: Any,
        payload: Any = None,
        tz: str | None = None,
        misfire: Misfire = "last",
        max_missed: int = 100,
        overlap: Overlap = "allow",
        jitter: timedelta | float | None = None,
    ) -> Schedule:
        """Make a schedule, or change the one of that name to these terms: as given from this commit on.

        `to` is a worker, its queue, or a `@cron`, or the name of either; each of its jobs carries `payload`. The other
        terms are those of `@cron`. Repeating a call changes nothing: only a changed cadence aims anew, after now, and a
        schedule that is paused stays so.

        Raises:
            NotRegistered: no such queue or cron.
            PayloadError: the name cannot be one, or the payload does not fit. No SQL was sent.
            UsageError: the cadence is wrong, or another term. No SQL was sent.
            WrongState: code declares a schedule of that name.
        """
        check_key("schedule name", name)
        target = _target(self._backstage.registry, to)
        queue, codec = _reached(target)
        subject = f"payload of schedule {name!r}"
        text = codec.encode(taken(codec, payload, subject, named=isinstance(to, str)), subject=subject)
        terms = schedule_terms(
            name,
            cadence,
            tz=tz,
            misfire=misfire,
            max_missed=max_missed,
            overlap=overlap,
            jitter=jitter,
            payload=text,
        )
        if isinstance(target, Queue):
            await self._backstage.queue_id(target, self._frame)
        aim = Cadence(terms.expression, terms.tz)
        async with self._frame.statement() as connection:
            next_at = aim.next_after(await schedules.clock(connection))
            id, stored = await schedules.schedule(connection, terms, queue=queue, next_at=next_at)
            if id is None:
                raise NotRegistered("cron", target.name, advice=_DECLARE)
            if not stored:
                raise WrongState(
                    f"Schedule {name!r} is declared by code; change it there, or choose another name.",
                    state="declared",
                    wanted="made at run time",
                )
            row = await schedules.get(connection, name=name)
        return _schedule(name, row)

    async def get(self, name: str) -> Schedule:
        """A schedule, as this transaction sees it.

        Raises:
            NotFound: no schedule of that name.
        """
        check_key("schedule name", name)
        async with self._frame.statement() as connection:
            return _schedule(name, await schedules.get(connection, name=name))

    async def list(self, *, prefix: str = "", after: str = "", limit: int = 100) -> Schedules:
        """Schedules whose names begin with `prefix`, by name, at most `limit` of them; go on `after` the last name."""
        _check_text(prefix, "prefix")
        _check_text(after, "after")
        rows = _whole(limit, "limit", _MOST_ROWS)
        async with self._frame.statement() as connection:
            found = await schedules.list_all(connection, prefix=prefix, after=after, max_rows=rows)
        return [_schedule(row.name, row) for row in found]

    async def next(self, name: str, *, count: int = 5) -> Instants:
        """When a schedule is due next, paused or not: its next `count` instants, without jitter, in UTC.

        Raises:
            NotFound: no schedule of that name.
        """
        most = _whole(count, "count", _MOST_INSTANTS)
        schedule = await self.get(name)
        instants = [schedule.next_at]
        while len(instants) < most:
            instants.append(schedule.cadence.next_after(instants[-1]))
        return instants[:most]

    async def pause(self, name: str) -> None:
        """Stop a schedule until it is resumed. Its jobs that are there already run; one that is paused stays so.

        Raises:
            NotFound: no schedule of that name.
        """
        check_key("schedule name", name)
        async with self._frame.statement() as connection:
            found = await schedules.pause(connection, name=name)
        if not found:
            raise NotFound("schedule", name)

    async def resume(self, name: str) -> None:
        """Let a paused schedule go on with its next instant after now; those of the pause are not made up for.

        Raises:
            NotFound: no schedule of that name.
        """
        check_key("schedule name", name)
        async with self._frame.statement() as connection:
            while True:
                row = await schedules.get(connection, name=name)
                if row is None:
                    raise NotFound("schedule", name)
                if row.paused_at is None:
                    return
                next_at = Cadence(row.expression, row.tz).next_after(row.now)
                # not when somebody changed the cadence since: then it is computed anew
                if await schedules.resume(connection, name=name, expression=row.expression, tz=row.tz, next_at=next_at):
                    return

    async def remove(self, name: str) -> bool:
        """Forget a schedule; whether there was one. Its jobs stay, and a declared one comes back with its code."""
        check_key("schedule name", name)
        async with self._frame.statement() as connection:
            return await schedules.remove(connection, name=name)

    async def run_now(self, name: str, *, payload: Any = _UNSET) -> JobId:
        """Make a job of a schedule now, paused or not, apart from its instants and their overlap; its id.

        `payload` is given to this job instead of the schedule's own.

        Raises:
            NotFound: no schedule of that name.
            PayloadError: the payload does not fit. No job was made.
        """
        check_key("schedule name", name)
        async with self._frame.statement() as connection:
            row = await schedules.get(connection, name=name)
            if row is None:
                raise NotFound("schedule", name)
            text = None if payload is _UNSET else self._encoded(row, payload)
            made = await schedules.run_now(connection, name=name, payload=text, headers=self._origin.headers())
            if made is None:
                raise NotFound("schedule", name)
            job, queue = made
            self._frame.after_commit.append(lambda: self._backstage.engine.ready([queue]))
        return job

    def _encoded(self, row: StoredSchedule, payload: Any) -> str:
        subject = f"payload of schedule {row.name!r}"
        _, codec = _reached(_target(self._backstage.registry, _to(row.queue)))
        return codec.encode(taken(codec, payload, subject, named=True), subject=subject)


class SyncCron:
    """The blocking face of `CronClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], CronClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def schedule(
        self,
        name: str,
        cadence: str | Cadence,
        *,
        to: Worker[T, Any] | Queue[T] | Cron[T],
        payload: T = ...,
        tz: str | None = None,
        misfire: Misfire = "last",
        max_missed: int = 100,
        overlap: Overlap = "allow",
        jitter: timedelta | float | None = None,
    ) -> Schedule: ...
    @overload
    def schedule(
        self,
        name: str,
        cadence: str | Cadence,
        *,
        to: str,
        payload: Any = None,
        tz: str | None = None,
        misfire: Misfire = "last",
        max_missed: int = 100,
        overlap: Overlap = "allow",
        jitter: timedelta | float | None = None,
    ) -> Schedule: ...
    def schedule(self, name: str, cadence: str | Cadence, *, to: Any, **terms: Any) -> Schedule:
        return self._wait(self._client().schedule(name, cadence, to=to, **terms))

    def get(self, name: str) -> Schedule:
        return self._wait(self._client().get(name))

    def list(self, *, prefix: str = "", after: str = "", limit: int = 100) -> Schedules:
        return self._wait(self._client().list(prefix=prefix, after=after, limit=limit))

    def next(self, name: str, *, count: int = 5) -> Instants:
        return self._wait(self._client().next(name, count=count))

    def pause(self, name: str) -> None:
        self._wait(self._client().pause(name))

    def resume(self, name: str) -> None:
        self._wait(self._client().resume(name))

    def remove(self, name: str) -> bool:
        return self._wait(self._client().remove(name))

    def run_now(self, name: str, *, payload: Any = _UNSET) -> JobId:
        return self._wait(self._client().run_now(name, payload=payload))


_DECLARE = "It is there once a process that declares it has started on this database."


def _target(registry: Registry, given: Any) -> Queue[Any] | Cron[Any]:
    """What a schedule runs: a queue, or a `@cron`. A name is looked for among the queues first."""
    if isinstance(given, Cron):
        return cast("Cron[Any]", given)
    if isinstance(given, str) and given not in registry.tokens("queue") and given in registry.crons:
        return registry.crons[given]
    return registry.queue(given)


def _reached(target: Queue[Any] | Cron[Any]) -> tuple[str, Codec[Any]]:
    """The name of the queue behind a target, and the type of a schedule's payload."""
    if isinstance(target, Queue):
        return target.name, target.codec
    return INTERNAL_QUEUES["occurrence"] + target.name, target.payload_codec


def _to(queue: str) -> str:
    return queue.removeprefix(INTERNAL_QUEUES["occurrence"])


def _schedule(name: str, row: StoredSchedule | None) -> Schedule:
    if row is None:
        raise NotFound("schedule", name)
    return Schedule(
        name=row.name,
        expression=row.expression,
        tz=row.tz,
        to=_to(row.queue),
        payload=None if row.payload is None else msgspec.json.decode(row.payload),
        misfire=row.misfire,
        max_missed=row.max_missed,
        overlap=row.overlap,
        jitter=row.jitter,
        declared=row.declared,
        paused_at=row.paused_at,
        next_at=row.next_at,
        last_at=row.last_at,
    )


def _check_text(value: str, name: str) -> None:
    if not isinstance(cast("object", value), str):
        raise UsageError(f"{name} must be text, not {type(value).__name__}.")
    if value:
        check_key(name, value)


def _whole(value: int, name: str, high: int) -> int:
    if type(value) is not int or not 1 <= value <= high:
        raise UsageError(f"{name} must be a whole number from 1 to {high}, not {value!r:.40}.")
    return value
