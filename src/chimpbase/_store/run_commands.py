"""What is done to workflow runs from outside: start, signal, cancel, pause, repeat.

Each function runs the statement of the same name in `run_commands.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from chimpbase._core.errors import AlreadyStarted, NotFound, NotRegistered, WrongState
from chimpbase._core.values import QueueId
from chimpbase._pg.connection import Record
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "run_commands.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a start did: the queue of the activation, the version it got, whether the run `existed`, whom to wake."""

    queue: QueueId
    version: int
    existed: bool
    queues: Sequence[QueueId]


async def start(
    connection: Queryable,
    *,
    workflow: str,
    version: int | None,
    id: str,
    input: str,
    delay: timedelta | None,
    headers: str | None,
    options: str = "{}",
) -> Started:
    """Create a run. `options` is a JSON object, as of the SQL function `start_run`.

    Raises: AlreadyStarted when a run with that id exists, NotRegistered when no process has declared the workflow.
    """
    row = await connection.fetch_one(
        *_SQL.start.bind(
            workflow=workflow, version=version, id=id, input=input, delay=delay, headers=headers, options=options
        )
    )
    assert row is not None  # the function always answers
    match row["refused"]:
        case "CB001":
            advice = "A workflow is there once a process that declares it has started on this database."
            raise NotRegistered("workflow", workflow, advice=advice)
        case "CB003":
            raise AlreadyStarted(workflow, id)
        case _:
            queues = list(row["queues"] or ())
            return Started(queue=row["queue"], version=row["run_version"], existed=row["existed"], queues=queues)


async def signal(
    connection: Queryable, *, id: str, name: str, payload: str, dedupe: str | None = None
) -> QueueId | None:
    """Store a signal; the queue of the activation it made ready, or None when none needed it.

    Raises: NotFound when there is no such run, WrongState when it has ended.
    """
    row = await connection.fetch_one(*_SQL.signal.bind(id=id, name=name, payload=payload, dedupe=dedupe))
    return _allowed(row, id, "has ended and takes no signals", wanted="running")["queue"]


async def complete(connection: Queryable, *, token: str, payload: str) -> QueueId | None:
    """Complete a callback, once; the queue of the activation it made ready. A second time changes nothing.

    Raises: NotFound when nobody made that token, WrongState when the run has ended.
    """
    row = await connection.fetch_one(*_SQL.complete.bind(token=token, payload=payload))
    return _allowed(row, token, "has ended; nobody waits for this callback", wanted="running", kind="callback")["queue"]


async def cancel(connection: Queryable, *, id: str, reason: str, force: bool) -> tuple[int, list[QueueId]]:
    """Wish a run cancelled: its number, and the queues to wake. With `force` it is ended here and now.

    Raises: NotFound, WrongState when it has ended.
    """
    row = await connection.fetch_one(*_SQL.cancel.bind(id=id, reason=reason, force=force))
    row = _allowed(row, id, "has ended already", wanted="running")
    return row["number"], list(row["queues"] or ())


async def pause(connection: Queryable, *, id: str, pause: bool) -> tuple[int, QueueId | None]:
    """Pause a run or let it go on: its number, and the queue to wake. Idempotent.

    Raises: NotFound, WrongState when it has ended or is blocked.
    """
    row = await connection.fetch_one(*_SQL.pause.bind(id=id, pause=pause))
    row = _allowed(row, id, "cannot be paused or resumed", wanted="running")
    return row["number"], row["queue"]


async def rewind(connection: Queryable, *, id: str, step: str | None) -> tuple[int, QueueId]:
    """Repeat a run from a step on; without a step, what failed. Its number, and the queue to wake.

    Raises: NotFound for the run or the step, WrongState when there is nothing to repeat.
    """
    row = await connection.fetch_one(*_SQL.rewind.bind(id=id, step=step))
    row = _allowed(row, id, "has not failed; there is nothing to retry", wanted="failed", step=step)
    return row["number"], row["queue"]


async def fork(connection: Queryable, *, id: str, step: str, fork: str) -> QueueId:
    """Start run `fork` with what run `id` did before a step; the queue to wake.

    Raises: NotFound for the run or the step, AlreadyStarted when `fork` exists.
    """
    row = await connection.fetch_one(*_SQL.fork.bind(id=id, step=step, fork=fork))
    if row is not None and row["refused"] == "CB003":
        raise AlreadyStarted("fork", fork)
    return _allowed(row, id, "", wanted="", step=step)["queue"]


def _allowed(
    row: Record | None, id: str, complaint: str, *, wanted: str, kind: str = "run", step: str | None = None
) -> Record:
    assert row is not None  # the functions always answer
    match row["refused"]:
        case "CB005":
            raise NotFound(kind, id)
        case "CB008":
            raise NotFound(f"step of run {id!r}" if step else kind, step or id)
        case "CB004":
            raise WrongState(f"Run {id!r} {complaint}; it is {row['state']}.", state=row["state"], wanted=wanted)
        case _:
            return row
