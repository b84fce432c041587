"""Jobs: rows of `chimpbase.job` and its sisters, from enqueue to a final state.

Each function runs the statement of the same name in `jobs.sql`. Every write after the claim is fenced by (id, process,
attempt): an id missing from an answer means that this process no longer holds that attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from typing import TypeVar

import msgspec

from chimpbase._core.errors import AlreadyEnqueued, NotFound, UsageError
from chimpbase._core.values import ClaimedJob, DeathReason, JobId, NewJob, ProcessId, QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load, sparse

_SQL = load("chimpbase._store", "jobs.sql")
T = TypeVar("T")
_id, _attempt, _result = attrgetter("id"), attrgetter("attempt"), attrgetter("result")
_MOST_ROWS, _MOST_CHARACTERS = 10_000, 8_000_000


#: Before every job of a queue.
FROM_THE_START = (-32768, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How many jobs of a queue are wanted, and after which (priority, sort)."""

    queue: QueueId
    jobs: int
    after: tuple[int, int]


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A job to remove as done; `result` is a JSON text to keep with it."""

    id: JobId
    attempt: int
    result: str | None = None


class PutOff(msgspec.Struct, frozen=True, gc=False):
    """A job to run again later. `error` (a JSON text) is present when the attempt failed, and then it is charged."""

    id: JobId
    attempt: int
    delay: timedelta
    charged: bool
    error: str | None


class Dead(msgspec.Struct, frozen=True, gc=False):
    """A job to move to the dead letters; `error` is a JSON text."""

    id: JobId
    attempt: int
    reason: DeathReason
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """`next_s` is in how many seconds the next job falls due, None when there is none."""

    count: int
    queues: Sequence[QueueId]
    next_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    id: JobId
    queue: QueueId
    dead: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCount:
    name: str
    kind: str
    ready: int
    running: int
    later: int
    dead: int
    done: int


async def enqueue(connection: Queryable, jobs: Sequence[NewJob]) -> list[JobId]:
    """Store jobs; their ids, in order."""
    ids = await connection.fetch_value(
        *_SQL.enqueue.bind(
            queues=[job.queue for job in jobs],
            payloads=[job.payload for job in jobs],
            delays=sparse([job.delay for job in jobs]),
            dues=sparse([job.run_at for job in jobs]),
            priorities=sparse([job.priority for job in jobs]),
            max_attempts=sparse([job.max_attempts for job in jobs]),
            headers=[job.headers for job in jobs],
            keys=sparse([job.key for job in jobs]),
            terms=sparse([job.terms for job in jobs]),
        )
    )
    return list(ids or ())


async def enqueue_many(connection: Queryable, new: NewJob, payloads: Sequence[str]) -> list[JobId]:
    """Store a job like `new` for each of the payloads; their ids, in order.

    Several statements when there are many: the caller sees to it that they are one transaction.
    """
    ids: list[JobId] = []
    for some in _portions(payloads):
        count = len(some)
        ids += await connection.fetch_value(
            *_SQL.enqueue_many.bind(
                queues=[new.queue] * count,
                payloads=some,
                delays=_repeated(new.delay, count),
                dues=_repeated(new.run_at, count),
                priorities=_repeated(new.priority, count),
                max_attempts=_repeated(new.max_attempts, count),
                headers=[new.headers] * count,
                keys=_repeated(new.key, count),
                terms=_repeated(new.terms, count),
            )
        )
    return ids


async def enqueue_with(connection: Queryable, new: NewJob, payloads: Sequence[str]) -> list[JobId]:
    """Store a job like `new` for each of the payloads as far as it is `asked` for; the ids, in order, old or new.

    Raises:
        NotFound: a job that it is to come after never existed.
        AlreadyEnqueued: there is one, or one of that idempotency key with another payload. Nothing was stored.
    """
    row = await connection.fetch_one(
        *_SQL.enqueue_with.bind(
            queue=new.queue,
            payloads=payloads,
            delay=new.delay,
            due=new.run_at,
            priority=new.priority,
            max_attempts=new.max_attempts,
            headers=new.headers,
            key=new.key,
            terms=new.terms,
            asked=new.asked,
        )
    )
    assert row is not None  # the function always answers
    match row["refused"]:
        case None:
            return list(row["ids"])
        case "CB007":
            raise NotFound("job", row["existing"])
        case "CB008":
            raise UsageError(f"The batch that job {row['existing']} follows is closed; it takes no more members.")
        case _:
            raise AlreadyEnqueued(row["existing"])


def fits_one_statement(payloads: Sequence[str]) -> bool:
    """Whether `enqueue_many` sends one statement, which then needs no transaction around it."""
    return len(payloads) <= _MOST_ROWS and sum(map(len, payloads)) <= _MOST_CHARACTERS


def _portions(payloads: Sequence[str]) -> Iterator[Sequence[str]]:
    """What goes into one statement: bounded in rows and in bytes, for the server keeps all of it in memory."""
    first = size = 0
    for place, payload in enumerate(payloads):
        size += len(payload)
        if place > first and (place - first == _MOST_ROWS or size > _MOST_CHARACTERS):
            yield payloads[first:place]
            first, size = place, len(payload)
    yield payloads[first:]


def _repeated(value: T, count: int) -> list[T]:
    return [value] * count if value else []


async def claim(
    connection: Connection, *, process: ProcessId, demands: Sequence[Demand], suspects: bool
) -> list[ClaimedJob]:
    """Lease ready jobs, at most the demanded number of each queue. Each claim counts as one attempt at once.

    With `suspects` one of those that are a crash away from the dead letters may be among them; else none is.
    Nothing comes back when the process was declared dead: it must take a new id first.
    """
    rows = await connection.fetch(
        *_SQL.claim.bind(
            process=process,
            queues=[demand.queue for demand in demands],
            demands=[demand.jobs for demand in demands],
            priorities=[demand.after[0] for demand in demands],
            sorts=[demand.after[1] for demand in demands],
            suspects=suspects,
        )
    )
    return [ClaimedJob(*row) for row in rows]


async def finish(connection: Connection, *, process: ProcessId, jobs: Sequence[Finished]) -> set[JobId]:
    """Remove finished jobs; the ids that were still held."""
    gone = await connection.fetch_value(
        *_SQL.finish.bind(
            process=process,
            ids=list(map(_id, jobs)),
            attempts=list(map(_attempt, jobs)),
            results=sparse(list(map(_result, jobs))),
        )
    )
    return set(gone)


async def finish_alike(connection: Connection, *, process: ProcessId, ids: Sequence[JobId], attempt: int) -> set[JobId]:
    """Remove finished jobs that are all in that attempt, without results; the ids that were still held."""
    return set(await connection.fetch_value(*_SQL.finish_alike.bind(process=process, ids=list(ids), attempt=attempt)))


def settle(*, process: ProcessId, job: JobId, attempt: int) -> str:
    """What removes a finished job, to be sent together with a COMMIT; it fails with CB030 if it was not held."""
    return _SQL.settle.spelled(process=process, job=job, attempt=attempt)


async def put_off(connection: Connection, *, process: ProcessId, jobs: Sequence[PutOff]) -> set[JobId]:
    """Move jobs to a later time; the ids that were still held."""
    rows = await connection.fetch(
        *_SQL.put_off.bind(
            process=process,
            ids=[job.id for job in jobs],
            attempts=[job.attempt for job in jobs],
            delays=[job.delay for job in jobs],
            charged=[job.charged for job in jobs],
            errors=[job.error for job in jobs],
        )
    )
    return {row[0] for row in rows}


async def dead_letter(connection: Connection, *, process: ProcessId, jobs: Sequence[Dead]) -> set[JobId]:
    """Move jobs to the dead letters; the ids that were still held."""
    rows = await connection.fetch(
        *_SQL.dead_letter.bind(
            process=process,
            ids=[job.id for job in jobs],
            attempts=[job.attempt for job in jobs],
            reasons=[job.reason for job in jobs],
            errors=[job.error for job in jobs],
        )
    )
    return {row[0] for row in rows}


async def give_back(connection: Connection, *, process: ProcessId, jobs: Sequence[ClaimedJob]) -> set[JobId]:
    """Make jobs ready again without charging the attempt; the ids that were still held."""
    rows = await connection.fetch(
        *_SQL.give_back.bind(process=process, ids=[job.id for job in jobs], attempts=[job.attempt for job in jobs])
    )
    return {row[0] for row in rows}


async def give_back_strays(
    connection: Connection, *, process: ProcessId, running: Iterable[tuple[JobId, int]]
) -> set[JobId]:
    """Make what this process holds ready again, but for the (id, attempt) in `running`; the ids given back."""
    mine = list(running)
    rows = await connection.fetch(
        *_SQL.give_back_strays.bind(
            process=process, ids=[id for id, _ in mine], attempts=[attempt for _, attempt in mine]
        )
    )
    return {row[0] for row in rows}


async def promote(connection: Connection, *, max_jobs: int) -> Promoted:
    """Make due jobs ready. A full batch suggests more."""
    row = await connection.fetch_one(*_SQL.promote.bind(max_jobs=max_jobs))
    assert row is not None  # an aggregate answers with one row
    return Promoted(count=row["promoted"], queues=list(row["queues"] or ()), next_s=row["next_s"])


async def rescue(connection: Connection, *, processes: Iterable[ProcessId], error: str) -> list[Rescued]:
    """Take jobs away from dead processes; `error` (a JSON text) joins each job's history."""
    rows = await connection.fetch(*_SQL.rescue.bind(processes=list(processes), error=error))
    return [Rescued(id=id, queue=queue, dead=dead) for id, queue, dead in rows]


async def held_jobs(connection: Connection, *, processes: Iterable[ProcessId]) -> int:
    """How many jobs these processes hold."""
    return await connection.fetch_value(*_SQL.held_jobs.bind(processes=list(processes)))


async def list_orphaned(connection: Connection) -> list[ProcessId]:
    """Processes that hold jobs and have no row. Reads the whole table of jobs: for now and then only."""
    return [ProcessId(row[0]) for row in await connection.fetch(*_SQL.list_orphaned.bind())]


async def count_by_queue(connection: Connection) -> list[QueueCount]:
    """The number of jobs in each state, for every queue. Reads whole tables: for people, not for loops."""
    rows = await connection.fetch(*_SQL.count_by_queue.bind())
    return [QueueCount(**dict(row)) for row in rows]
