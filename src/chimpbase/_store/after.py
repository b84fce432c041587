"""Dependencies between jobs: rows of `chimpbase.job_after`, which the schema's functions write.

Each function runs the statement of the same name in `after.sql`.
"""

from __future__ import annotations

from chimpbase._core.values import JobId
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "after.sql")


async def close(connection: Queryable, *, job: JobId, given_up: bool) -> None:
    """The batch that this job follows has all its members; or, `given_up`, is to have no end."""
    await connection.fetch_value(*_SQL.close.bind(job=job, given_up=given_up))


async def resolve_missed(connection: Connection, *, since: int, most: int) -> int:
    """Resolve what others missed among the next `most` jobs after `since`; where to go on, 0 after the last."""
    last = await connection.fetch_value(*_SQL.resolve_missed.bind(since=since, most=most))
    return last or 0
