"""What `ctx.queue` does to dead letters: list them, give them new attempts, delete them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast, get_args

import msgspec

from chimpbase._app.queue_names import queue_name
from chimpbase._app.queue_operations import job_id
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.codec import codec_for
from chimpbase._core.dead_job import DeadJob
from chimpbase._core.errors import NotFound, NotRegistered, UsageError
from chimpbase._core.names import check_key
from chimpbase._core.values import DeathReason
from chimpbase._pg.db import Queryable
from chimpbase._store import dead_letters, queues

if TYPE_CHECKING:
    from chimpbase._app.stage import Stage

_BATCH = 1000
_MOST = 1_000_000_000
_ANY = codec_for(Any)

Progress = Callable[[int], object]


class DeadFilter(TypedDict, total=False):
    """Which dead letters: those that meet every condition given.

    `queue` is a name, token or definition; `error` the name of the last exception's type; `since` and `until` bound
    when it died, with a time zone; `payload` is contained in the job's, as `@>` of PostgreSQL has it; `ids` are jobs.
    """

    queue: Any
    reason: DeathReason
    error: str
    since: datetime
    until: datetime
    payload: Any
    ids: Iterable[int]


class DeadLetters:
    """The part of `QueueClient` for dead letters."""

    _backstage: Stage
    _frame: Frame

    async def dead(
        self, *, after: DeadJob | None = None, limit: int = 100, **filter: Unpack[DeadFilter]
    ) -> list[DeadJob]:
        """Dead letters, newest first; those after the last one of another answer, with `after`. See `DeadFilter`.

        Raises:
            NotRegistered: no queue of that name.
            UsageError: a condition makes no sense.
        """
        if after is not None and not isinstance(cast("object", after), DeadJob):
            raise UsageError(f"after={after!r:.40} must be a DeadJob, the last one of another answer.")
        before = None if after is None else (after.failed_at, after.job)
        most = _count(limit, "limit", 10_000)
        conditions = _Conditions(filter)
        async with self._frame.statement() as connection:
            rows = await dead_letters.list_dead(
                connection, filter=await conditions.text(connection), before=before, most=most
            )
        return [_dead_job(row) for row in rows]

    async def count_dead(self, *, most: int = 10_000, **filter: Unpack[DeadFilter]) -> int:
        """How many dead letters there are; the count stops at `most`, because more cannot be told in a moment.

        Raises:
            As `dead`.
        """
        most = _count(most, "most", 10_000_000)
        conditions = _Conditions(filter)
        async with self._frame.statement() as connection:
            return await dead_letters.count_dead(connection, filter=await conditions.text(connection), most=most)

    async def redrive(
        self,
        *,
        rate: float | None = None,
        limit: int | None = None,
        everything: bool = False,
        on_progress: Progress | None = None,
        **filter: Unpack[DeadFilter],
    ) -> int:
        """Give dead letters new attempts, the oldest first, at most `limit`; how many.

        With `rate` so many a second become ready; else all at once. Their attempts and crashes count from the
        beginning; their ids, their payloads and the time they were enqueued stay. Activations of workflows are left:
        their runs are what can be taken up again. `on_progress` is told how many it were after each thousand.

        Raises:
            UsageError: no condition was given, and not `everything=True` either.
            As `dead`.
        """
        conditions = _Conditions(filter, movable=True, everything=everything)
        gap = timedelta(0) if rate is None else timedelta(seconds=1 / _rate(rate))
        most, moved = _MOST if limit is None else _count(limit, "limit", _MOST), 0
        start: datetime | None = None
        while moved < most:
            async with self._frame.statement() as connection:
                if start is None:
                    start = await dead_letters.clock(connection)
                    conditions.bound(start)  # what dies again meanwhile is not for this call
                batch = await dead_letters.redrive(
                    connection,
                    filter=await conditions.text(connection),
                    start=start + gap * moved,
                    gap=gap,
                    most=min(_BATCH, most - moved),
                )
                if batch:
                    self._frame.after_commit.append(lambda: self._backstage.engine.later(0.0))
            moved += len(batch)
            if not batch:
                break
            if on_progress is not None:
                on_progress(moved)
        return moved

    async def purge(
        self,
        *,
        limit: int | None = None,
        everything: bool = False,
        on_progress: Progress | None = None,
        **filter: Unpack[DeadFilter],
    ) -> int:
        """Delete dead letters for good, the oldest first, at most `limit`; how many. Activations are left.

        Raises:
            As `redrive`.
        """
        conditions = _Conditions(filter, movable=True, everything=everything)
        most, gone = _MOST if limit is None else _count(limit, "limit", _MOST), 0
        while gone < most:
            async with self._frame.statement() as connection:
                batch = await dead_letters.purge(
                    connection, filter=await conditions.text(connection), most=min(_BATCH, most - gone)
                )
            gone += batch
            if not batch:
                break
            if on_progress is not None:
                on_progress(gone)
        return gone

    async def retry(self, job: Any) -> Literal["redriven", "hurried"]:
        """Run one job now that is dead ("redriven") or waits for its time, delayed or after a failure ("hurried").

        Raises:
            NotFound: it is neither.
        """
        id = job_id(job)
        if await self.redrive(ids=[id]):
            return "redriven"
        async with self._frame.statement() as connection:
            if await dead_letters.hurry(connection, job=id) is None:
                raise NotFound("dead or delayed job", id)
            self._frame.after_commit.append(lambda: self._backstage.engine.later(0.0))
        return "hurried"


class SyncDeadLetters:
    """The blocking face of `DeadLetters`, whose verbs mean the same."""

    _client: Callable[[], Any]
    _wait: Waiter

    def dead(self, *, after: DeadJob | None = None, limit: int = 100, **filter: Unpack[DeadFilter]) -> list[DeadJob]:
        """See `DeadLetters.dead`."""
        return self._wait(self._client().dead(after=after, limit=limit, **filter))

    def count_dead(self, *, most: int = 10_000, **filter: Unpack[DeadFilter]) -> int:
        """See `DeadLetters.count_dead`."""
        return self._wait(self._client().count_dead(most=most, **filter))

    def redrive(
        self,
        *,
        rate: float | None = None,
        limit: int | None = None,
        everything: bool = False,
        **filter: Unpack[DeadFilter],
    ) -> int:
        """See `DeadLetters.redrive`."""
        return self._wait(self._client().redrive(rate=rate, limit=limit, everything=everything, **filter))

    def purge(self, *, limit: int | None = None, everything: bool = False, **filter: Unpack[DeadFilter]) -> int:
        """See `DeadLetters.purge`."""
        return self._wait(self._client().purge(limit=limit, everything=everything, **filter))

    def retry(self, job: Any) -> Literal["redriven", "hurried"]:
        """See `DeadLetters.retry`."""
        return self._wait(self._client().retry(job))


class _Conditions:
    """A filter on its way to the database: everything is checked at once, the queue's number is asked for there."""

    def __init__(self, given: Mapping[str, Any], *, movable: bool = False, everything: bool = False) -> None:
        known = DeadFilter.__optional_keys__
        for key in given:
            if key not in known:
                raise UsageError(f"There is no condition {key!r}; there are: {', '.join(sorted(known))}.")
        given = {key: value for key, value in given.items() if value is not None}
        if movable and not given and not everything:
            raise UsageError("This changes many jobs. Name a condition, such as queue=, or say everything=True.")
        self._queue = queue_name(given["queue"]) if "queue" in given else None
        self._rest = {key: _CHECKS[key](value) for key, value in given.items() if key != "queue"}
        if movable:
            self._rest["movable"] = True

    def bound(self, until: datetime) -> None:
        """Leave out what dies from now on."""
        given = self._rest.get("until")
        self._rest["until"] = (
            until.isoformat() if given is None else min(datetime.fromisoformat(given), until).isoformat()
        )

    async def text(self, connection: Queryable) -> str:
        """As JSON, for `find_dead`."""
        rest = self._rest
        if self._queue is not None and "queue" not in rest:
            found = (await queues.list_ids(connection)).get(self._queue)
            if found is None:
                raise NotRegistered("queue", self._queue, await queues.list_names(connection))
            rest["queue"] = found
        return msgspec.json.encode(rest).decode()


def _reason(value: Any) -> str:
    if value not in get_args(DeathReason):
        raise UsageError(f"reason must be one of {', '.join(get_args(DeathReason))}, not {value!r:.60}.")
    return str(value)


def _instant(value: Any) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise UsageError(f"since and until must be datetimes with a time zone, not {value!r:.60}.")
    return value.isoformat()


def _ids(value: Any) -> list[int]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise UsageError(f"ids must be ids of jobs, not {value!r:.60}.")
    ids: list[int] = [job_id(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return ids


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "reason": _reason,
    "error": lambda value: check_key("error", value),
    "since": _instant,
    "until": _instant,
    "payload": lambda value: msgspec.Raw(_ANY.encode(value, subject="payload").encode()),
    "ids": _ids,
}


def _count(value: Any, name: str, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"{name} must be a whole number from 1 to {most}, not {value!r:.40}.")
    return value


def _rate(value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not 1e-4 <= value <= 1e6:
        raise UsageError(f"rate must be a number of jobs a second from 0.0001 to 1000000, not {value!r:.40}.")
    return float(value)


def _dead_job(row: dead_letters.DeadRow) -> DeadJob:
    last = row.errors[-1] if row.errors else {}
    try:
        payload = msgspec.json.decode(row.payload)
    except msgspec.DecodeError:  # somebody wrote it by hand
        payload = row.payload
    return DeadJob(
        job=row.id,
        queue=row.queue,
        payload=payload,
        reason=row.reason,
        error_type=last.get("error"),
        error=last.get("message"),
        attempts=row.attempts,
        failed_at=row.died_at,
        enqueued_at=row.enqueued_at,
    )
