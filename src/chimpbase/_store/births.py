"""Births: jobs that need no claim, because the process that stores them has a slot for them.

Each function runs the statement of the same name in `births.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from chimpbase._core.values import JobId, NewJob, ProcessId
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "births.sql")


async def enqueue(
    connection: Queryable, jobs: Sequence[NewJob], *, process: ProcessId
) -> list[tuple[JobId, bool, datetime]]:
    """Store ready jobs as leased to this process: each one's id, whether it is leased, and when it was enqueued."""
    rows = await connection.fetch(
        *_SQL.enqueue.bind(
            process=process,
            queues=[job.queue for job in jobs],
            payloads=[job.payload for job in jobs],
            priorities=[job.priority for job in jobs],
            max_attempts=[job.max_attempts for job in jobs],
            headers=[job.headers for job in jobs],
            keys=[job.key for job in jobs],
            terms=[job.terms for job in jobs],
        )
    )
    return [(id, born, enqueued_at) for id, born, enqueued_at in rows]
