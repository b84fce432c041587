"""What a rehearsal asks of the tables: the next job, the next due instant, and what a test wants to look at.

Each function runs the statement of the same name in `rehearsal.sql`. None of them changes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from chimpbase._core.values import QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "rehearsal.sql")


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
