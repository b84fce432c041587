"""Workflow runs as their activations see them: rows of `chimpbase.run`, `chimpbase.step` and `chimpbase.signal`.

Each function runs the statement of the same name in `runs.sql`. The primary key of `step` is what makes a step's result
exist once; the fence (job, process, attempt) only stops a zombie earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from chimpbase._core.values import JobId, LoadedRun, ProcessId, QueueId, RunState, StepKind, StepMemo
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "runs.sql")


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The right to act for a run: its activation, held by (process, attempt)."""

    process: ProcessId
    job: JobId
    attempt: int
    run: int


class Memo(msgspec.Struct, frozen=True, gc=False):
    """A step to write for a run, under the lease of its activation."""

    lease: Lease
    step: StepMemo


class _Row(msgspec.Struct, gc=False):
    process: int
    job: int
    fence: int
    run: int
    key: str
    seq: int
    kind: StepKind
    attempt: int
    digest: int | None
    started_at: datetime
    finished_at: datetime
    detail: str | None
    result: str | None
    error: str | None


class _End(msgspec.Struct, gc=False):
    process: int
    job: int
    attempt: int
    run: int
    state: RunState
    output: str | None
    error: str | None
    view: str | None
    code: str


class Timer(msgspec.Struct, frozen=True, gc=False):
    """A timer set on the way into a suspension; `due_at` is stored as ISO 8601 in the step's result."""

    key: str
    seq: int
    due_at: datetime


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How a run ended: `output` is JSON text, `view` its state as last shown, `code` the hash of what ran it."""

    lease: Lease
    state: RunState
    output: str | None
    error: str | None
    view: str | None
    code: str


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """How a run comes to rest. `heard` tells that its code knows of a wish to cancel it."""

    state: RunState
    due_at: datetime | None
    waits: Sequence[str]
    timers: Sequence[Timer]
    now: datetime
    heard: bool
    pause: str | None
    view: str | None
    code: str


class Rested(msgspec.Struct, frozen=True):
    """What became of it: at rest, or `woken` meanwhile. Neither: the lease is lost."""

    suspended: bool
    woken: bool
    cancel_reason: str | None


async def register(connection: Connection, workflows: Sequence[tuple[str, int, QueueId]]) -> None:
    """Make (name, version, queue) known. Idempotent; safe from many processes at once."""
    await connection.execute(
        *_SQL.register.bind(
            names=[name for name, _, _ in workflows],
            versions=[version for _, version, _ in workflows],
            queues=[queue for _, _, queue in workflows],
        )
    )


async def load_journals(connection: Connection, leases: Sequence[Lease]) -> dict[int, LoadedRun]:
    """The runs with their journals, by number; one is missing when its lease is lost, or it has ended."""
    rows = await connection.fetch(
        *_SQL.load_journals.bind(
            processes=[lease.process for lease in leases],
            jobs=[lease.job for lease in leases],
            attempts=[lease.attempt for lease in leases],
            runs=[lease.run for lease in leases],
        )
    )
    return {row["number"]: LoadedRun.from_row(row) for row in rows}


async def memo(connection: Connection, memos: Sequence[Memo]) -> set[tuple[int, str]]:
    """Write steps; the (run, key) of those written by this call."""
    rows = await connection.fetch(
        *_SQL.memo.bind(memos=msgspec.json.encode([_row(memo.lease, memo.step) for memo in memos]).decode())
    )
    return {(run, key) for run, key in rows}


async def consume(
    connection: Connection,
    lease: Lease,
    *,
    names: Sequence[str],
    key: str,
    seq: int,
    kind: StepKind,
    detail: str | None,
    started_at: datetime,
    finished_at: datetime,
) -> tuple[str, str] | None:
    """Decide a wait with the oldest message of those names: (name, payload), or None when there is none (or no lease).

    `detail` is kept with the step instead of the name.
    """
    row = await connection.fetch_one(
        *_SQL.consume.bind(
            process=lease.process,
            job=lease.job,
            attempt=lease.attempt,
            run=lease.run,
            names=list(names),
            key=key,
            seq=seq,
            kind=kind,
            detail=detail,
            started_at=started_at,
            finished_at=finished_at,
        )
    )
    return None if row is None else (row["name"], row["payload"])


async def suspend(connection: Connection, lease: Lease, rest: Rest) -> Rested:
    """Put a run to rest. Woken means that a message came first: serve it, then try again."""
    row = await connection.fetch_one(
        *_SQL.suspend.bind(
            process=lease.process,
            job=lease.job,
            attempt=lease.attempt,
            run=lease.run,
            state=rest.state,
            due_at=rest.due_at,
            waits=list(rest.waits),
            keys=[timer.key for timer in rest.timers],
            seqs=[timer.seq for timer in rest.timers],
            results=[f'"{timer.due_at.isoformat()}"' for timer in rest.timers],
            started_at=rest.now,
            heard=rest.heard,
            pause=rest.pause,
            view=rest.view,
            code=rest.code,
        )
    )
    assert row is not None  # `select exists` always answers with one row
    return Rested(row["suspended"], row["woken"], row["cancel_reason"])


async def finish(connection: Connection, endings: Sequence[Ending]) -> set[int]:
    """End runs together with their activations; the numbers of those whose lease was still held."""
    rows = await connection.fetch(
        *_SQL.finish.bind(
            endings=msgspec.json.encode(list(map(_end, endings))).decode(),
        )
    )
    return {row[0] for row in rows}


async def finish_family(connection: Connection, ending: Ending) -> list[QueueId] | None:
    """End a run that has a parent or children; the queues to wake, or None when the lease is lost."""
    lease = ending.lease
    row = await connection.fetch_one(
        *_SQL.finish_family.bind(
            run=lease.run,
            job=lease.job,
            process=lease.process,
            attempt=lease.attempt,
            state=ending.state,
            output=ending.output,
            error=ending.error,
            view=ending.view,
            code=ending.code,
        )
    )
    assert row is not None  # the function always answers
    return list(row["queues"] or ()) if row["held"] else None


async def continue_as(connection: Connection, lease: Lease, *, input: str, view: str | None) -> bool:
    """Begin a run anew with another input. False: the lease is lost and nothing changed."""
    row = await connection.fetch_one(
        *_SQL.continue_as.bind(
            process=lease.process, job=lease.job, attempt=lease.attempt, run=lease.run, input=input, view=view
        )
    )
    return row is not None


async def migrate(
    connection: Connection,
    lease: Lease,
    *,
    workflow: str,
    version: int,
    input: str,
    keys: Mapping[str, str | None],
) -> bool:
    """Move a run to another version; `keys` maps old keys to new ones, None drops. False: the lease is lost."""
    row = await connection.fetch_one(
        *_SQL.migrate.bind(
            process=lease.process,
            job=lease.job,
            attempt=lease.attempt,
            run=lease.run,
            workflow=workflow,
            version=version,
            input=input,
            dropped=[old for old, new in keys.items() if new is None],
            old_keys=[old for old, new in keys.items() if new is not None],
            new_keys=[new for new in keys.values() if new is not None],
        )
    )
    return row is not None


async def list_disturbed(connection: Connection, *, runs: Sequence[int]) -> list[tuple[int, str | None, bool]]:
    """Of these runs, those that somebody wants cancelled or paused: (number, reason to cancel, paused)."""
    rows = await connection.fetch(*_SQL.list_disturbed.bind(runs=list(runs)))
    return [(row["number"], row["cancel_reason"], row["paused"]) for row in rows]


async def add_callback(connection: Connection, *, token: str, run: int, key: str) -> None:
    """Make a callback's token known."""
    await connection.execute(*_SQL.add_callback.bind(token=token, run=run, key=key))


async def add_reply(connection: Connection, *, id: str, run: int, result: str | None, error: str | None) -> None:
    """Answer an update, once."""
    await connection.execute(*_SQL.add_reply.bind(id=id, run=run, result=result, error=error))


async def prune(connection: Queryable, *, age: timedelta, after: int, window: int) -> int | None:
    """Delete old ended runs among the next `window`; the last number looked at, or None when none is old enough."""
    return await connection.fetch_value(*_SQL.prune.bind(age=age, after=after, window=window))


def _end(ending: Ending) -> _End:
    lease = ending.lease
    return _End(
        lease.process,
        lease.job,
        lease.attempt,
        lease.run,
        ending.state,
        ending.output,
        ending.error,
        ending.view,
        ending.code,
    )


def _row(lease: Lease, step: StepMemo) -> _Row:
    return _Row(
        lease.process,
        lease.job,
        lease.attempt,
        lease.run,
        step.key,
        step.seq,
        step.kind,
        step.attempt,
        step.digest,
        step.started_at,
        step.finished_at,
        step.detail,
        step.result,
        step.error,
    )
