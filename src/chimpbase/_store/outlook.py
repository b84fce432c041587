"""The outlook: one statement that tells an idle process whether anything is there to do.

Each function runs the statement of the same name in `outlook.sql`. It reads several tables, so that an idle process
costs one query a second and not six.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chimpbase._core.values import QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "outlook.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """`later_s` and `schedule_s` are seconds from now, negative when overdue, None when there is nothing."""

    ready: Sequence[QueueId]
    paused: Sequence[QueueId]
    gated: Sequence[QueueId]
    later_s: float | None
    schedule_s: float | None
    died: bool
    cancels: bool
    awaited: bool
    behind: Sequence[int]
    strikes: bool


async def look(connection: Connection, *, queues: Sequence[QueueId], consumers: Sequence[int] = ()) -> Outlook:
    """Look at everything that may have become due for a process that runs these queues."""
    row = await connection.fetch_one(*_SQL.look.bind(queues=queues, consumers=list(consumers)))
    assert row is not None  # a select without `from` answers with one row
    return Outlook(
        ready=list(row["ready"]),
        gated=list(row["gated"]),
        paused=list(row["paused"]),
        later_s=row["later_s"],
        schedule_s=row["schedule_s"],
        died=row["died"],
        cancels=row["cancels"],
        awaited=row["awaited"],
        behind=list(row["behind"]),
        strikes=row["strikes"],
    )
