"""Events and subscriptions: rows of `chimpbase.event` and `chimpbase.subscription`.

Each function runs the statement of the same name in `events.sql`. A delivery is a job; jobs have a shelf of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from chimpbase._core.values import QueueId, SubscriptionSpec
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "events.sql")


async def publish(connection: Queryable, *, topic: str, payload: str, headers: str | None) -> tuple[int, list[QueueId]]:
    """Store an event and its deliveries; the event's id, and the queues that got a job."""
    row = await connection.fetch_one(*_SQL.publish.bind(topic=topic, payload=payload, headers=headers))
    assert row is not None  # a function call always answers with one row
    return row[0], list(row[1] or ())


async def subscribe(connection: Connection, specs: Sequence[SubscriptionSpec]) -> None:
    """Make sure these subscriptions stand. Idempotent; safe from many processes at once."""
    await connection.execute(
        *_SQL.subscribe.bind(
            names=[spec.name for spec in specs],
            topics=[spec.topic for spec in specs],
            queues=[spec.queue for spec in specs],
        )
    )


async def list_subscriptions(connection: Connection) -> list[tuple[str, str]]:
    """Every subscription of the database as (name, topic), whoever declared it."""
    return [(name, topic) for name, topic in await connection.fetch(*_SQL.list_subscriptions.bind())]
