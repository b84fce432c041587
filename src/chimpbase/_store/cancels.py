"""Cancellations: rows of `chimpbase.job_cancel`, and the end of the jobs they are for.

Each function runs the statement of the same name in `cancels.sql`. A request names one attempt; when that has ended
otherwise, it holds for the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from chimpbase._core.values import JobId, ProcessId, QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "cancels.sql")

CancelOutcome = Literal["cancelled", "requested", "ended", "activation", "unknown"]


class Cancelled(msgspec.Struct, frozen=True, gc=False):
    """An attempt to end as cancelled."""

    id: JobId
    attempt: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What came of a request; `queue` is the job's, None when nobody knows the job."""

    outcome: CancelOutcome
    queue: QueueId | None


async def cancel(connection: Queryable, *, job: JobId, reason: str | None) -> Cancellation:
    """Cancel a job that waits; ask for the end of one that runs. What ended, or is an activation, is left alone."""
    row = await connection.fetch_one(*_SQL.cancel.bind(job=job, reason=reason))
    assert row is not None  # a function with `out` parameters answers with one row
    return Cancellation(outcome=row[0], queue=row[1])


async def list_asked(connection: Connection, *, process: ProcessId) -> list[Cancelled]:
    """The attempts of this process that somebody wants ended."""
    return [Cancelled(*row) for row in await connection.fetch(*_SQL.list_asked.bind(process=process))]


async def settle(connection: Connection, *, most: int) -> list[tuple[JobId, CancelOutcome]]:
    """Make requests whose attempt has ended hold for their jobs; what came of each."""
    return [(job, outcome) for job, outcome in await connection.fetch(*_SQL.settle.bind(most=most))]


async def finish(connection: Connection, *, process: ProcessId, jobs: Sequence[Cancelled]) -> set[JobId]:
    """End attempts as cancelled; the ids that were still held."""
    rows = await connection.fetch(
        *_SQL.finish.bind(
            process=process,
            ids=[job.id for job in jobs],
            attempts=[job.attempt for job in jobs],
            reasons=[job.reason for job in jobs],
        )
    )
    return {row[0] for row in rows}
