"""Replays a run's code over its journal, and sees whether it goes the same way. It reads, and writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from chimpbase._app.activations import code_of
from chimpbase._app.backstage import Backstage
from chimpbase._app.registry import Registry
from chimpbase._app.workflow_code import read_code
from chimpbase._core.errors import NondeterministicWorkflow, NotFound, NotRegistered
from chimpbase._core.text import name_and_message
from chimpbase._core.values import JobId, LoadedRun, ProcessId, StepKind
from chimpbase._engine.journal import Surroundings
from chimpbase._engine.steps import Steps
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db, Queryable
from chimpbase._store import run_queries, runs, workflow_codes

_BATCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a run's replay: `problem` is why its code cannot go on with it, None when it can."""

    id: str
    workflow: str
    version: int
    problem: str | None


async def replay(backstage: Backstage, db: Db, *, id: str) -> list[str]:
    """See `Rehearsal.crash_and_replay`."""
    async with db.acquire() as connection:
        past = await run_queries.load_past(connection, id=id)
        names = None if past is None else await _names_of(connection, past.run)
    if past is None:
        raise NotFound("run", id)
    if (past.run.workflow, past.run.version) not in backstage.registry.workflows:
        raise NotRegistered("workflow", f"{past.run.workflow}@{past.run.version}")
    journal, ending = await _replayed(backstage, past.run, names)
    if isinstance(fault := journal.failure, NondeterministicWorkflow):
        raise AssertionError(f"Run {id!r} diverges: {fault}") from fault  # noqa: TRY004  # for a test
    _compare(past, journal, ending)
    return journal.met


async def check(registry: Registry, db: Db, *, workflow: str | None) -> list[Verdict]:
    """Replay every run that has not ended, oldest first."""
    backstage = cast("Backstage", _Bare(registry))
    verdicts: list[Verdict] = []
    after = 0
    while True:
        async with db.acquire() as connection:
            found = await run_queries.list_in_flight(connection, workflow=workflow, after=after, max_runs=_BATCH)
        for after, id in found:  # noqa: B007  # the last one is where the next batch begins
            async with db.acquire() as connection:
                past = await run_queries.load_past(connection, id=id)
                names = None if past is None else await _names_of(connection, past.run)
            if past is not None:
                verdicts.append(await _judge(backstage, past, names))
        if len(found) < _BATCH:
            return verdicts


async def _judge(backstage: Backstage, past: run_queries.PastRun, names: frozenset[str] | None) -> Verdict:
    run, known = past.run, backstage.registry.workflows
    problem: str | None = None
    if (run.workflow, run.version) not in known:
        takers = [one for one in known.values() if one.name == run.workflow and run.version in one.migrate]
        if not takers:
            problem = f"this code has no version {run.version} of {run.workflow!r}, and no migrate= for it"
    else:
        journal, _ = await _replayed(backstage, run, names)
        missing = [key for key in journal.orphans() if not journal.around.knows(_name(key))]
        if isinstance(journal.failure, NondeterministicWorkflow):
            problem = str(journal.failure)
        elif missing and not journal.new:
            problem = f"the code ended without asking for {', '.join(missing[:5])}"
    return Verdict(id=run.id, workflow=run.workflow, version=run.version, problem=problem)


async def _replayed(
    backstage: Backstage, run: LoadedRun, names: frozenset[str] | None
) -> tuple[Steps, tuple[str, str] | None]:
    """The journal after the code went over it, and how the code ended, if it did."""
    definition = backstage.registry.workflows[run.workflow, run.version]
    known = read_code(definition.function)
    around = Surroundings(_Sealed(names), lambda: 0.0, _no_pause, known.hash, known.knows, sealed=True)
    journal = Steps(run, runs.Lease(ProcessId(0), JobId(0), 0, run.number), around)
    code = asyncio.ensure_future(_begun(code_of(backstage, definition, None, known).body, journal))
    code.add_done_callback(lambda _code: journal.stirred.set())
    try:
        await journal.stirred.wait()
        ending = _ending(code) if code.done() else None
    finally:
        journal.close()
        for task in (code, *journal.scopes.tasks):
            task.cancel()
        await asyncio.wait({code, *journal.scopes.tasks})
    return journal, ending


async def _names_of(connection: Queryable, run: LoadedRun) -> frozenset[str] | None:
    return None if run.code is None else await workflow_codes.find(connection, hash=run.code)


class _Bare:
    """As much of a backstage as code needs that does nothing."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def new_trace(self) -> str:
        """No trace: nothing is caused."""
        return ""


async def _begun(body: Callable[[Steps], Awaitable[str]], journal: Steps) -> str:
    journal.begin()
    return await body(journal)


class _Sealed:
    """A ledger that nothing is written to. `names` is what the code that last ran the run mentioned."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self._names = names

    async def names_of(self, code: str) -> frozenset[str] | None:
        """See `RunLedger.names_of`."""
        del code  # there is one run, and one code that last ran it
        return self._names

    def memo(self, memo: runs.Memo) -> Awaitable[bool]:
        raise AssertionError(f"a replay wrote {memo.step.key}")

    async def atomically(
        self,
        act: Callable[[Connection], Awaitable[str]],
        write: Callable[[Connection, str], Awaitable[None]],
    ) -> str:
        raise AssertionError("a replay acted")

    async def consume(
        self,
        lease: runs.Lease,
        *,
        names: list[str],
        key: str,
        seq: int,
        kind: StepKind,
        detail: str | None,
        started_at: datetime,
        finished_at: datetime,
    ) -> tuple[str, str] | None:
        return None


async def _no_pause(_seconds: float) -> None:
    return


def _ending(code: asyncio.Future[str]) -> tuple[str, str]:
    """How the code ended: the state and the result or error that its run would have."""
    error = code.exception() if not code.cancelled() else asyncio.CancelledError("the workflow cancelled itself")
    return ("completed", code.result()) if error is None else ("failed", name_and_message(error))


def _name(key: str) -> str:
    return key[key.rfind("/") + 1 : key.rfind("#")]


def _compare(past: run_queries.PastRun, journal: Steps, ending: tuple[str, str] | None) -> None:
    run, met = past.run, set(journal.met)
    unmet = [key for key, memo in run.steps.items() if memo.kind not in ("update", "patch") and not _was_met(key, met)]
    if unmet:
        raise AssertionError(
            f"Run {run.id!r} wrote {unmet}, and its code did not come there again; it met {journal.met}."
        )
    ended = past.state in {"completed", "failed"}
    new = [key for key in journal.new if key not in run.steps and (ended or ending or not _waits(key))]
    if new and past.state != "running":
        raise AssertionError(f"Run {run.id!r} is {past.state}, and its code went on to {new}, which it never wrote.")
    if ended and ending != (past.state, past.output if past.error is None else past.error):
        was = f"{past.state} with {past.output or past.error}"
        raise AssertionError(f"Run {run.id!r} {was}, and its code now gives {ending}.")


def _was_met(key: str, met: set[str]) -> bool:
    """A timer belongs to the wait that set it, a reply to its update."""
    return key in met or key.startswith("update#") or key[: key.rfind(".", key.rfind("#"))] in met


def _waits(key: str) -> bool:
    return key[key.rfind("/") + 1 :].partition("#")[0].split(":")[0] in ("wait", "select", "sleep")
