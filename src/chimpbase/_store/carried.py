"""Carried jobs: stored together with the end of the job whose handler enqueued them, under ids drawn before.

Each function runs the statement of the same name in `carried.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence

from chimpbase._core.values import CarriedJob, JobId, QueueId
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load, sparse

_SQL = load("chimpbase._store", "carried.sql")


async def draw(connection: Queryable, *, count: int) -> tuple[list[JobId], set[QueueId]]:
    """Ids for that many jobs to come, and the queues that have a gate, where jobs pass in the order of their ids."""
    row = await connection.fetch_one(*_SQL.draw.bind(count=count))
    assert row is not None  # it reads no table but in subqueries
    return list(row["ids"]), set(row["gated"])


async def enqueue(connection: Queryable, carried: Sequence[CarriedJob], *, now_s: float) -> None:
    """Store jobs under their ids; it is `now_s` on the monotonic clock."""
    jobs = [one.new for one in carried]
    await connection.fetch_value(
        *_SQL.enqueue.bind(
            ids=[one.id for one in carried],
            queues=[job.queue for job in jobs],
            payloads=[job.payload for job in jobs],
            delays=sparse([one.delay_left(now_s) for one in carried]),
            dues=sparse([job.run_at for job in jobs]),
            priorities=sparse([job.priority for job in jobs]),
            max_attempts=sparse([job.max_attempts for job in jobs]),
            headers=[job.headers for job in jobs],
            keys=sparse([job.key for job in jobs]),
            terms=sparse([job.terms for job in jobs]),
        )
    )
