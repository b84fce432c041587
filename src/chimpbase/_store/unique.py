"""Names of unique jobs: rows of `chimpbase.job_unique`, which the schema's functions write.

Each function runs the statement of the same name in `unique.sql`.
"""

from __future__ import annotations

from chimpbase._pg.connection import Connection
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "unique.sql")

#: Before every name of every queue.
FROM_THE_START = (0, "")


async def sweep(connection: Connection, *, after: tuple[int, str], max_rows: int) -> tuple[int, str]:
    """Delete names that say nothing more among the next `max_rows`; where to go on: the start after the end."""
    row = await connection.fetch_one(*_SQL.sweep.bind(queue=after[0], name=after[1], max_rows=max_rows))
    return (row["queue"], row["name"]) if row else FROM_THE_START
