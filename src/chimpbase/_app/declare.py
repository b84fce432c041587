"""Makes the names of an app known to the database when a process starts.

Invariant: nothing here removes or narrows what another process declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import msgspec

from chimpbase._app.activations import old_queues
from chimpbase._app.definitions import Cron, Subscription, Workflow
from chimpbase._app.handlers import queue_spec
from chimpbase._app.registry import Queued, Registry
from chimpbase._app.workflow_code import read_code
from chimpbase._core.cron import Cadence
from chimpbase._core.topics import is_pattern, regular_expression
from chimpbase._core.values import QueueId, QueueSpec, ScheduleSpec, ScheduleTerms, SubscriptionSpec
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import events, gates, queues, runs, schedules, streams, workflow_codes

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


async def declare(db: Db, registry: Registry) -> dict[str, QueueId]:
    """Declare queues, subscriptions, schedules and workflows; the numbers the database gave to all queues by name."""
    definitions = registry.queued()
    specs = {spec.name: spec for spec in map(queue_spec, definitions)}
    for name in old_queues(registry):
        specs.setdefault(name, QueueSpec(name=name, kind="activation", max_attempts=None))
    for name in registry.tokens("queue"):
        specs.setdefault(name, QueueSpec(name=name, kind="job", max_attempts=None))
    async with db.acquire() as connection:
        if specs:
            await queues.register(connection, list(specs.values()))
            limits = {spec.name: spec.limits for spec in specs.values() if spec.limits is not None}
            await gates.declare(connection, limits=limits)
            await queues.link_dead(connection)
        ids = {name: id for name, (id, _) in (await queues.list_all(connection)).items()}
        await _subscribe(connection, definitions, ids)
        await _schedule(connection, definitions, ids)
        flows = [(one.name, one.version, ids[queue_spec(one).name]) for one in definitions if isinstance(one, Workflow)]
        if flows:
            await runs.register(connection, flows)
            codes = [read_code(one.function) for one in definitions if isinstance(one, Workflow)]
            await workflow_codes.register(connection, {one.hash: one.names for one in codes})
        await _declare_streams(connection, registry)
    return ids


async def _declare_streams(connection: Connection, registry: Registry) -> None:
    # also without a stream: what the database held before it came to this cluster must stay readable
    await streams.begin_epoch(connection)
    for stream in registry.tokens("stream").values():
        await streams.declare(connection, name=stream.name, retention=stream.retention, max_bytes=stream.max_bytes)


async def _subscribe(connection: Connection, definitions: Sequence[Queued], ids: Mapping[str, QueueId]) -> None:
    subscriptions = [
        _subscription_spec(one, ids[queue_spec(one).name])
        for one in definitions
        if isinstance(one, Subscription) and one.dispatch == "job"
    ]
    for spec in sorted(subscriptions, key=lambda spec: spec.name):
        await events.subscribe(connection, spec)


def _subscription_spec(one: Subscription[Any], queue: QueueId) -> SubscriptionSpec:
    topic = one.event.name
    return SubscriptionSpec(
        name=one.name,
        topic=topic,
        queue=queue,
        matcher=regular_expression(topic) if is_pattern(topic) else None,
        conditions=msgspec.json.encode(one.conditions).decode() if one.conditions else None,
        key_path=one.ordered_by.split(".") if one.ordered_by else None,
        since=_LONG_AGO if one.start == "beginning" else one.start if isinstance(one.start, datetime) else None,
    )


async def _schedule(connection: Connection, definitions: Sequence[Queued], ids: Mapping[str, QueueId]) -> None:
    declared = [(one, one.schedule) for one in definitions if isinstance(one, Cron) and one.schedule is not None]
    if declared:
        now = await schedules.clock(connection)
        specs = [_schedule_spec(terms, ids[queue_spec(one).name], now=now) for one, terms in declared]
        await schedules.register(connection, specs)


def _schedule_spec(terms: ScheduleTerms, queue: QueueId, *, now: datetime) -> ScheduleSpec:
    cadence = Cadence(terms.expression, terms.tz)
    given = {one.name: getattr(terms, one.name) for one in fields(terms)}
    return ScheduleSpec(**given, queue=queue, next_at=cadence.next_after(now))
