"""Gates: what a queue with limits lets through, rows of `chimpbase.gate` and what waits behind them.

Each function runs the statement of the same name in `gates.sql`. Limits travel as JSON texts, as `Limits.stored` writes
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from chimpbase._core.values import ClaimedJob, JobId, ProcessId, QueueId
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "gates.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStatus:
    """The limits of a queue by name, each as it is stored: what code declares, what an operator says, what holds."""

    queue: str
    declared: Mapping[str, Any]
    override: Mapping[str, Any]
    effective: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """`more`: ask again at once. `opens_s`: in how many seconds time alone may let another through; None if never."""

    jobs: list[ClaimedJob]
    more: bool
    opens_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A job's place behind its gate. `holders` are the jobs that hold what it waits for, by the limit that does."""

    queue: QueueId
    key: str | None
    limits: Mapping[str, Any]
    paused_at: datetime | None
    ahead: int
    holders: Mapping[str, Sequence[JobId]]
    opens_at: datetime | None
    key_opens_at: datetime | None


async def declare(connection: Connection, *, limits: Mapping[str, Mapping[str, object]]) -> None:
    """Note what code says of the limits of queues, by name. Idempotent; safe from many processes at once."""
    texts = [msgspec.json.encode(one).decode() for one in limits.values()]
    await connection.execute(*_SQL.declare.bind(names=list(limits), limits=texts))


async def override(connection: Queryable, *, name: str, limits: Mapping[str, object]) -> QueueId | None:
    """Put an operator's word before code's: a field of None lifts that limit, no fields let code's word stand again.

    None when there is no such queue. Holds from the next admission on; what runs goes on.
    """
    text = msgspec.json.encode(limits).decode()
    return await connection.fetch_value(*_SQL.override.bind(name=name, limits=text))


async def list_all(connection: Connection) -> list[GateStatus]:
    """Every queue that has a gate."""
    rows = await connection.fetch(*_SQL.list_all.bind())
    return [
        GateStatus(queue=name, declared=_read(declared), override=_read(override), effective=_read(effective))
        for name, declared, override, effective in rows
    ]


async def admit(connection: Connection, *, queue: QueueId, process: ProcessId, demand: int, suspects: bool) -> Admitted:
    """Lease jobs of a queue that has a gate, as many as its limits allow. Each counts as one attempt at once.

    With `suspects` one of those that are a crash away from the dead letters may be among them; else none is.
    Nothing comes back when the process was declared dead, or the queue is paused.
    """
    rows = await connection.fetch(*_SQL.admit.bind(queue=queue, process=process, demand=demand, suspects=suspects))
    more, opens_s = (rows[0][0], rows[0][1]) if rows else (False, None)
    return Admitted(jobs=[ClaimedJob(*row[2:]) for row in rows if row[2] is not None], more=bool(more), opens_s=opens_s)


async def look_at(connection: Queryable, *, job: JobId) -> Line | None:
    """Why a job waits behind its gate; None when it does not."""
    row = await connection.fetch_one(*_SQL.look_at.bind(job=job))
    if row is None:
        return None
    limits, now = _read(row["limits"]), row["now"]
    holders: dict[str, Sequence[JobId]] = {}
    if "concurrency" in limits and len(row["running"]) >= limits["concurrency"]:
        holders["concurrency"] = row["running"]
    most = 1 if "ordered" in limits else limits.get("key_concurrency")
    if row["key"] is not None and most is not None and len(row["running_of_key"]) >= most:
        holders["ordered" if "ordered" in limits else "key_concurrency"] = row["running_of_key"]
    if row["retrying_of_key"]:
        holders["ordered"] = [*holders.get("ordered", ()), *row["retrying_of_key"]]
    return Line(
        queue=row["queue"],
        key=row["key"],
        limits=limits,
        paused_at=row["paused_at"],
        ahead=row["ahead"],
        holders=holders,
        opens_at=_later(row["opens_at"], now),
        key_opens_at=_later(row["key_opens_at"], now),
    )


async def prune(connection: Connection, *, max_rows: int) -> int:
    """Forget keys that nothing waits for and whose bucket is full; how many."""
    return await connection.fetch_value(*_SQL.prune.bind(max_rows=max_rows))


def _read(text: str) -> Mapping[str, Any]:
    return msgspec.json.decode(text)


def _later(at: datetime | None, now: datetime) -> datetime | None:
    return at if at is not None and at > now else None
