"""Processes: rows of `chimpbase.process`, the leases.

Each function runs the statement of the same name in `processes.sql`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from chimpbase._core.values import ProcessId, QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "processes.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveProcess:
    id: ProcessId
    host: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadProcess:
    """A process whose lease ran out; `fresh` when this very call declared it dead."""

    id: ProcessId
    host: str
    pid: int
    fresh: bool


async def register(
    connection: Connection, *, app: str, host: str, pid: int, version: str, lease: timedelta, queues: Sequence[QueueId]
) -> ProcessId:
    """Add this process and start its lease; its id, which no process had before."""
    return await connection.fetch_value(
        *_SQL.register.bind(app=app, host=host, pid=pid, version=version, lease=lease, queues=queues)
    )


async def beat(connection: Connection, *, process: ProcessId) -> bool:
    """Renew the lease. False: it was declared dead, its jobs are gone, and it must register anew."""
    return await connection.fetch_value(*_SQL.beat.bind(process=process)) is not None


async def hold(connection: Connection, *, process: ProcessId) -> None:
    """Lock a process for the rest of the transaction, after every claim of it that is on its way."""
    await connection.execute(*_SQL.hold.bind(process=process))


async def list_live(connection: Connection) -> list[LiveProcess]:
    """Processes that nobody declared dead."""
    return [LiveProcess(id=id, host=host, pid=pid) for id, host, pid in await connection.fetch(*_SQL.list_live.bind())]


async def expire(connection: Connection, *, gone: Iterable[ProcessId]) -> list[DeadProcess]:
    """Declare processes dead whose lease ran out, or that are `gone`; every dead process that still has a row."""
    rows = await connection.fetch(*_SQL.expire.bind(gone=[*gone]))
    return [DeadProcess(id=id, host=host, pid=pid, fresh=fresh) for id, host, pid, fresh in rows]


async def remove(connection: Connection, *, processes: Iterable[ProcessId]) -> set[ProcessId]:
    """Forget processes that hold no job; those forgotten."""
    return {row[0] for row in await connection.fetch(*_SQL.remove.bind(processes=[*processes]))}
