"""What a rehearsal asks of the tables: the next job, the next due instant, and what a test wants to look at.

Each function runs the statement of the same name in `rehearsal.sql`. None of them changes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from chimpbase._core.values import LoadedRun, QueueId, RunState, StepMemo
from chimpbase._pg.connection import Connection
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "rehearsal.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A run as it stands; `output` is JSON text."""

    run: LoadedRun
    state: RunState
    output: str | None
    error: str | None


async def find_head(connection: Connection, *, queues: Sequence[QueueId]) -> QueueId | None:
    """The queue whose job should run next; None when none of them has a ready job."""
    return await connection.fetch_value(*_SQL.find_head.bind(queues=list(queues)))


async def find_due(connection: Connection, *, since: datetime, schedules: bool) -> datetime | None:
    """When something falls due first, after `since`."""
    return await connection.fetch_value(*_SQL.find_due.bind(since=since, schedules=schedules))


async def list_waiting(connection: Connection, *, queue: str) -> list[str]:
    """The payloads (JSON texts) of the jobs that wait in a queue, in the order in which they would run."""
    return [row[0] for row in await connection.fetch(*_SQL.list_waiting.bind(queue=queue))]


async def list_events(connection: Connection, *, topic: str) -> list[str]:
    """The payloads (JSON texts) of everything published under a topic."""
    return [row[0] for row in await connection.fetch(*_SQL.list_events.bind(topic=topic))]


async def load_run(connection: Connection, *, id: str) -> PastRun | None:
    """A run and its journal, without a lease; None when there is none."""
    row = await connection.fetch_one(*_SQL.load_run.bind(id=id))
    if row is None:
        return None
    memos = [
        StepMemo(
            key=step["key"],
            seq=step["seq"],
            kind=step["kind"],
            attempt=step["attempt"],
            started_at=step["started_at"],
            result=step["result"],
            error=step["error"],
        )
        for step in row["steps"]
    ]
    run = LoadedRun(
        number=row["number"],
        id=row["id"],
        workflow=row["workflow"],
        version=row["version"],
        input=row["input"],
        started_at=row["started_at"],
        now=row["now"],
        headers=row["headers"],
        steps={memo.key: memo for memo in memos},
    )
    return PastRun(run=run, state=row["state"], output=row["output"], error=row["error"])
