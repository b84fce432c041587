"""History partitions: the days of `chimpbase.job_done`, made ahead and dropped whole.

Each function runs the statement of the same name in `partitions.sql`.
"""

from __future__ import annotations

from datetime import date

from chimpbase._pg.connection import Connection
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "partitions.sql")


async def list_days(connection: Connection) -> dict[str, date]:
    """The partitions that exist: table name and the day each holds."""
    return {row["name"]: row["day"] for row in await connection.fetch(*_SQL.list_days.bind())}


async def oldest_kept(connection: Connection) -> tuple[date, date]:
    """The first day that the longest retention still covers, and today."""
    row = await connection.fetch_one(*_SQL.oldest_kept.bind())
    assert row is not None  # an aggregate answers with one row
    return row[0], row[1]


async def create(connection: Connection, *, day: date) -> None:
    """Make the partition of a day; nothing happens when it exists."""
    await connection.execute(*_SQL.create.bind(day=day))


async def drop(connection: Connection, *, day: date) -> None:
    """Drop the partition of a day with all its rows; nothing happens when there is none."""
    await connection.execute(*_SQL.drop.bind(day=day))
