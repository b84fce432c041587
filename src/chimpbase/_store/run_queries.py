"""What anybody may ask of workflow runs. Each function runs the statement of the same name in `run_queries.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chimpbase._core.values import LoadedRun, RunEnd, RunState, RunStatus
from chimpbase._pg.connection import Record
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "run_queries.sql")


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run as it is written down: `output` is JSON text."""

    run: LoadedRun
    state: RunState
    output: str | None
    error: str | None


async def get(connection: Queryable, *, id: str) -> RunStatus | None:
    """What a run is doing, or None."""
    row = await connection.fetch_one(*_SQL.get.bind(id=id))
    return None if row is None else _status(row)


async def list_ends(connection: Queryable, *, ids: Sequence[str]) -> dict[str, RunEnd]:
    """How these runs stand, by id; one that does not exist is missing."""
    rows = await connection.fetch(*_SQL.list_ends.bind(ids=list(ids)))
    return {row["id"]: RunEnd(*row) for row in rows}


async def list_recent(
    connection: Queryable,
    *,
    workflow: str | None,
    states: Sequence[RunState] | None,
    attributes: str | None,
    since: datetime | None,
    until: datetime | None,
    max_runs: int,
) -> list[RunStatus]:
    """The newest runs first. `attributes` is a JSON object that theirs must contain."""
    rows = await connection.fetch(
        *_SQL.list_recent.bind(
            workflow=workflow,
            states=None if states is None else list(states),
            attributes=attributes,
            since=since,
            until=until,
            max_runs=max_runs,
        )
    )
    return [_status(row) for row in rows]


async def load_past(connection: Queryable, *, id: str) -> PastRun | None:
    """A run with its journal, or None."""
    row = await connection.fetch_one(*_SQL.load_past.bind(id=id))
    return None if row is None else PastRun(LoadedRun.from_row(row), row["state"], row["output"], row["error"])


async def list_in_flight(
    connection: Queryable, *, workflow: str | None, after: int, max_runs: int
) -> list[tuple[int, str]]:
    """The (number, id) of runs that have not ended, oldest first."""
    rows = await connection.fetch(*_SQL.list_in_flight.bind(workflow=workflow, after=after, max_runs=max_runs))
    return [(row["number"], row["id"]) for row in rows]


async def find_reply(connection: Queryable, *, id: str) -> tuple[str | None, str | None] | None:
    """(result, error) of an update, or None while there is none."""
    row = await connection.fetch_one(*_SQL.find_reply.bind(id=id))
    return None if row is None else (row["result"], row["error"])


def _status(row: Record) -> RunStatus:
    fields: dict[str, Any] = dict(row)
    fields["waits"] = tuple(fields["waits"])
    return RunStatus(**fields)
