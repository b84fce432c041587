"""Events and subscriptions: rows of `chimpbase.event` and `chimpbase.subscription`.

Each function runs the statement of the same name in `events.sql`. A delivery is a job; jobs have a shelf of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from chimpbase._core.errors import DatabaseError, NotFound
from chimpbase._core.values import QueueId, SubscriptionSpec
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "events.sql")


class NewEvent(NamedTuple):
    """An event about to be stored; `payload` and `headers` are JSON texts."""

    topic: str
    payload: str
    headers: str | None


async def publish(connection: Queryable, *, topic: str, payload: str, headers: str | None) -> tuple[int, list[QueueId]]:
    """Store an event and its deliveries; the event's id, and the queues that got a job."""
    row = await connection.fetch_one(*_SQL.publish.bind(topic=topic, payload=payload, headers=headers))
    assert row is not None  # a function call always answers with one row
    return row[0], list(row[1] or ())


async def publish_each(connection: Queryable, new: Sequence[NewEvent]) -> list[tuple[int, list[QueueId]]]:
    """Store events, all or none, one after another; what `publish` answers for each, in order."""
    rows = await connection.fetch(
        *_SQL.publish_each.bind(
            topics=[one.topic for one in new],
            payloads=[one.payload for one in new],
            headers=[one.headers for one in new],
        )
    )
    return [(row[0], list(row[1] or ())) for row in rows]


async def subscribe(connection: Connection, spec: SubscriptionSpec) -> None:
    """Make sure a subscription stands as declared. Idempotent; safe from many processes at once."""
    await connection.execute(
        *_SQL.subscribe.bind(
            name=spec.name,
            topic=spec.topic,
            queue=spec.queue,
            matcher=spec.matcher,
            conditions=spec.conditions,
            key_path=list(spec.key_path) if spec.key_path else None,
            since=spec.since,
        )
    )


async def replay(connection: Queryable, *, subscription: str, since: datetime | None) -> int:
    """Deliver stored events to one subscription once more; how many.

    Raises: NotFound when there is no such subscription.
    """
    try:
        return await connection.fetch_value(*_SQL.replay.bind(subscription=subscription, since=since))
    except DatabaseError as error:
        if error.sqlstate == "CB008":
            raise NotFound("subscription", subscription) from error
        raise


async def find_queue(connection: Queryable, *, name: str) -> QueueId | None:
    """The queue of a subscription's deliveries; None when there is no such subscription."""
    return await connection.fetch_value(*_SQL.find_queue.bind(name=name))


async def prune(connection: Connection, *, age: timedelta, max_events: int) -> int:
    """Remove the oldest events beyond an age; how many. A full batch suggests more."""
    status = await connection.execute(*_SQL.prune.bind(age=age, max_events=max_events))
    return int(status.split()[-1])


async def list_subscriptions(connection: Queryable) -> list[tuple[str, str]]:
    """Every subscription of the database as (name, topic), whoever declared it."""
    return [(name, topic) for name, topic in await connection.fetch(*_SQL.list_subscriptions.bind())]


async def drop(connection: Queryable, *, name: str) -> int:
    """Drop a subscription, the deliveries of it that wait, and its dead letters; how many of both.

    Raises: NotFound when there is no such subscription.
    """
    try:
        return await connection.fetch_value(*_SQL.drop.bind(name=name))
    except DatabaseError as error:
        if error.sqlstate == "CB008":
            raise NotFound("subscription", name) from error
        raise


async def count_workers(connection: Queryable, *, name: str) -> int:
    """How many live processes work a subscription."""
    return await connection.fetch_value(*_SQL.count_workers.bind(name=name))


async def list_topics(connection: Queryable) -> list[dict[str, object]]:
    """The topics of the stored events by name: topic, events, first_at, last_at."""
    return [dict(row) for row in await connection.fetch(*_SQL.list_topics.bind())]


async def list_events(
    connection: Queryable, *, matcher: str | None, above: int, below: int, most: int
) -> list[dict[str, object]]:
    """Stored events, the latest first: id, topic, payload and headers as JSON texts, published_at."""
    found = await connection.fetch(*_SQL.list_events.bind(matcher=matcher, above=above, below=below, most=most))
    return [dict(row) for row in found]
