"""Workflow runs: rows of `chimpbase.run`, `chimpbase.step` and `chimpbase.signal`.

Each function runs the statement of the same name in `runs.sql`. The primary key of `step` is what makes a step's result
exist once; the fence (job, process, attempt) only stops a zombie earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from chimpbase._core.errors import AlreadyStarted, NotFound, NotRegistered, WrongState
from chimpbase._core.values import ClaimedJob, JobId, LoadedRun, ProcessId, QueueId, RunState, RunStatus, StepMemo
from chimpbase._pg.connection import Connection, Record
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "runs.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """A step to write for a run, under the fence of its activation."""

    process: ProcessId
    job: JobId
    fence: int
    run: int
    step: StepMemo


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A timer set on the way into a suspension; `due_at` is stored as ISO 8601 in the step's result."""

    key: str
    seq: int
    due_at: datetime


async def register(connection: Connection, workflows: Sequence[tuple[str, int, QueueId]]) -> None:
    """Make (name, version, queue) known. Idempotent; safe from many processes at once."""
    await connection.execute(
        *_SQL.register.bind(
            names=[name for name, _, _ in workflows],
            versions=[version for _, version, _ in workflows],
            queues=[queue for _, _, queue in workflows],
        )
    )


async def start(
    connection: Queryable,
    *,
    workflow: str,
    version: int | None,
    id: str,
    input: str,
    delay: timedelta | None,
    headers: str | None,
) -> tuple[QueueId, int]:
    """Create a run; the queue of its activation and the version it got (the highest known when None).

    Raises: AlreadyStarted when a run with that id exists, NotRegistered when no process has declared the workflow.
    """
    row = await connection.fetch_one(
        *_SQL.start.bind(workflow=workflow, version=version, id=id, input=input, delay=delay, headers=headers)
    )
    assert row is not None  # the function always answers
    match row["refused"]:
        case "CB001":
            advice = "A workflow is there once a process that declares it has started on this database."
            raise NotRegistered("workflow", workflow, advice=advice)
        case "CB003":
            raise AlreadyStarted(workflow, id)
        case _:
            return row["queue"], row["run_version"]


async def signal(connection: Queryable, *, id: str, name: str, payload: str) -> QueueId | None:
    """Store a signal; the queue of the activation it made ready, or None when none needed it.

    Raises: NotFound when there is no such run, WrongState when it has ended.
    """
    row = await connection.fetch_one(*_SQL.signal.bind(id=id, name=name, payload=payload))
    assert row is not None  # the function always answers
    match row["refused"]:
        case "CB005":
            raise NotFound("run", id)
        case "CB004":
            raise WrongState(f"Run {id!r} has ended and takes no signals.", state=row["state"], wanted="running")
        case _:
            return row["queue"]


async def load_journal(connection: Connection, *, process: ProcessId, job: ClaimedJob, run: int) -> LoadedRun | None:
    """The run with its journal; None when this process lost the activation, or the run has ended."""
    row = await connection.fetch_one(*_SQL.load_journal.bind(process=process, job=job.id, attempt=job.attempt, run=run))
    if row is None:
        return None
    steps = [_step(step) for step in row["steps"]]
    return LoadedRun(
        number=row["number"],
        id=row["id"],
        workflow=row["workflow"],
        version=row["version"],
        input=row["input"],
        started_at=row["started_at"],
        now=row["now"],
        headers=row["headers"],
        steps={step.key: step for step in steps},
    )


async def memo(connection: Connection, memos: Sequence[Memo]) -> set[tuple[int, str]]:
    """Write steps; the (run, key) of those written by this call."""
    rows = await connection.fetch(
        *_SQL.memo.bind(
            processes=[memo.process for memo in memos],
            jobs=[memo.job for memo in memos],
            fences=[memo.fence for memo in memos],
            runs=[memo.run for memo in memos],
            keys=[memo.step.key for memo in memos],
            seqs=[memo.step.seq for memo in memos],
            kinds=[memo.step.kind for memo in memos],
            attempts=[memo.step.attempt for memo in memos],
            started_ats=[memo.step.started_at for memo in memos],
            results=[memo.step.result for memo in memos],
            errors=[memo.step.error for memo in memos],
        )
    )
    return {(run, key) for run, key in rows}


async def consume(
    connection: Connection,
    *,
    process: ProcessId,
    job: ClaimedJob,
    run: int,
    name: str,
    key: str,
    seq: int,
    started_at: datetime,
) -> str | None:
    """Decide a wait with the oldest signal of that name; its payload, or None when there is none (or no lease)."""
    return await connection.fetch_value(
        *_SQL.consume.bind(
            process=process,
            job=job.id,
            attempt=job.attempt,
            run=run,
            name=name,
            key=key,
            seq=seq,
            started_at=started_at,
        )
    )


async def suspend(
    connection: Connection,
    *,
    process: ProcessId,
    job: ClaimedJob,
    run: int,
    state: RunState,
    due_at: datetime | None,
    waits: Sequence[str],
    timers: Sequence[Timer],
) -> tuple[bool, bool]:
    """Put a run to rest: (suspended, woken). Woken means a signal came first: serve it, then try again."""
    row = await connection.fetch_one(
        *_SQL.suspend.bind(
            process=process,
            job=job.id,
            attempt=job.attempt,
            run=run,
            state=state,
            due_at=due_at,
            waits=list(waits),
            keys=[timer.key for timer in timers],
            seqs=[timer.seq for timer in timers],
            results=[f'"{timer.due_at.isoformat()}"' for timer in timers],
        )
    )
    assert row is not None  # `select exists` always answers with one row
    return row["suspended"], row["woken"]


async def finish(
    connection: Connection,
    *,
    process: ProcessId,
    job: ClaimedJob,
    run: int,
    state: RunState,
    output: str | None,
    error: str | None,
) -> bool:
    """End a run together with its activation. False: the lease is lost and nothing changed."""
    row = await connection.fetch_one(
        *_SQL.finish.bind(
            process=process, job=job.id, attempt=job.attempt, run=run, state=state, output=output, error=error
        )
    )
    return row is not None


async def get(connection: Queryable, *, id: str) -> RunStatus | None:
    """What a run is doing, or None."""
    row = await connection.fetch_one(*_SQL.get.bind(id=id))
    return None if row is None else _status(row)


async def list_recent(
    connection: Connection, *, workflow: str | None, state: RunState | None, max_runs: int
) -> tuple[RunStatus, ...]:
    """The newest runs first."""
    rows = await connection.fetch(*_SQL.list_recent.bind(workflow=workflow, state=state, max_runs=max_runs))
    return tuple(_status(row) for row in rows)


def _status(row: Record) -> RunStatus:
    fields: dict[str, Any] = dict(row)
    fields["waits"] = tuple(fields["waits"])
    return RunStatus(**fields)


def _step(row: Record) -> StepMemo:
    return StepMemo(
        key=row["key"],
        seq=row["seq"],
        kind=row["kind"],
        attempt=row["attempt"],
        started_at=row["started_at"],
        result=row["result"],
        error=row["error"],
    )
