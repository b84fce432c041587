"""Queues: rows of `chimpbase.queue`, which give names to the small integers that jobs carry.

Each function runs the statement of the same name in `queues.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence

from chimpbase._core.values import JobId, QueueId, QueueKind, QueueSpec
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "queues.sql")


async def register(connection: Connection, specs: Sequence[QueueSpec]) -> None:
    """Make sure these queues exist, with the limits that are given. Idempotent; safe from many processes at once."""
    await connection.execute(
        *_SQL.register.bind(
            names=[spec.name for spec in specs],
            kinds=[spec.kind for spec in specs],
            max_attempts=[spec.max_attempts for spec in specs],
            retentions=[spec.retention for spec in specs],
        )
    )


async def find(connection: Queryable, *, name: str) -> QueueId | None:
    """The number of a queue of jobs, or None when no process has declared it."""
    return await connection.fetch_value(*_SQL.find.bind(name=name))


async def pause(connection: Queryable, *, name: str, by: str, reason: str | None) -> QueueId | None:
    """Let nobody claim from a queue until `resume`; None when there is none of that name."""
    return await connection.fetch_value(*_SQL.pause.bind(name=name, by=by, reason=reason))


async def resume(connection: Queryable, *, name: str) -> QueueId | None:
    """Let a queue be claimed from again; None when there is none of that name."""
    return await connection.fetch_value(*_SQL.resume.bind(name=name))


async def link_dead(connection: Connection) -> None:
    """Let each queue know where its dead letters are handled, if somewhere."""
    await connection.execute(*_SQL.link_dead.bind())


async def list_ids(connection: Queryable) -> dict[str, QueueId]:
    """The numbers of all queues by name, whoever declared them."""
    return {row[0]: row[1] for row in await connection.fetch(*_SQL.list_ids.bind())}


async def list_names(connection: Queryable) -> list[str]:
    """The names of all queues, whoever declared them."""
    return [row[0] for row in await connection.fetch(*_SQL.list_names.bind())]


async def list_all(connection: Connection) -> dict[str, tuple[QueueId, QueueKind]]:
    """Every queue of the database by name, whoever declared it."""
    rows = await connection.fetch(*_SQL.list_all.bind())
    return {name: (id, kind) for id, name, kind in rows}


async def list_fingerprints(connection: Connection, *, names: Sequence[str]) -> dict[str, tuple[QueueId, str | None]]:
    """The number of each of these queues, and the fingerprint of its payload type as last declared."""
    rows = await connection.fetch(*_SQL.list_fingerprints.bind(names=names))
    return {name: (id, fingerprint) for name, id, fingerprint in rows}


async def set_fingerprint(connection: Connection, *, queue: QueueId, fingerprint: str) -> None:
    """Note the fingerprint of a queue's payload type."""
    await connection.execute(*_SQL.set_fingerprint.bind(queue=queue, fingerprint=fingerprint))


async def sample_waiting(connection: Connection, *, queue: QueueId, most: int) -> list[tuple[JobId, str, str | None]]:
    """Some of the oldest and newest jobs that wait in a queue: id, payload and headers (JSON texts)."""
    rows = await connection.fetch(*_SQL.sample_waiting.bind(queue=queue, most=most))
    return [(id, payload, headers) for id, payload, headers in rows]
