"""Run births: runs that are started together, and need no claim where their process has a slot for them.

Each function runs the statement of the same name in `run_births.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from chimpbase._core.values import JobId, NewRun, ProcessId
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "run_births.sql")


class Birth(msgspec.Struct, frozen=True, gc=False):
    """A run that was started: `place` is its place among those that were to be, from 1; `born` whether it is leased."""

    place: int
    number: int
    job: JobId
    born: bool
    started_at: datetime


class _Row(msgspec.Struct, gc=False):
    workflow: str
    version: int
    id: str
    input: str
    headers: str | None
    priority: int
    key: str | None
    attributes: str | None
    leased: bool


async def start(
    connection: Queryable, runs: Sequence[NewRun], *, process: ProcessId | None, leased: Sequence[bool]
) -> list[Birth]:
    """Start runs, those of them that `leased` says leased to the process. One that is missing was not started: its
    workflow is unknown, or a run with its id exists.
    """
    rows = await connection.fetch(
        *_SQL.start.bind(
            process=process,
            queues=list({run.queue for run in runs}),
            runs=msgspec.json.encode(list(map(_row, runs, leased))).decode(),
        )
    )
    return [Birth(*row) for row in rows]


def _row(run: NewRun, leased: bool) -> _Row:
    return _Row(
        run.workflow, run.version, run.id, run.input, run.headers, run.priority, run.key, run.attributes, leased
    )
