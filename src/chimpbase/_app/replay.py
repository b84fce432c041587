"""Replays a run's code over its journal, and sees whether it goes the same way. It reads, and writes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import msgspec

from chimpbase._app.activations import code_of
from chimpbase._app.backstage import Backstage
from chimpbase._app.journals import Journal, load_journal, read_journal
from chimpbase._app.old_run import OldRun
from chimpbase._app.registry import Registry
from chimpbase._app.workflow_code import read_code
from chimpbase._core.errors import NondeterministicWorkflow, NotFound, NotRegistered
from chimpbase._core.text import name_and_message
from chimpbase._core.values import JobId, ProcessId, StepKind
from chimpbase._engine.activator import Body
from chimpbase._engine.journal import Surroundings
from chimpbase._engine.steps import Steps
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import run_queries, runs

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
        journal = await load_journal(connection, id=id)
    if journal is None:
        raise NotFound("run", id)
    run = journal.past.run
    if (run.workflow, run.version) not in backstage.registry.workflows:
        raise NotRegistered("workflow", f"{run.workflow}@{run.version}")
    return await _replay_exactly(backstage, journal)


async def replay_journal(registry: Registry, text: str, *, exact: bool) -> list[str]:
    """See `chimpbase.testing.replay`."""
    backstage, journal = cast("Backstage", _Bare(registry)), read_journal(text)
    verdict, met = await _judge(backstage, journal)
    if verdict.problem is not None:
        raise AssertionError(f"Run {verdict.id!r} diverges: {verdict.problem}")
    return await _replay_exactly(backstage, _moved(registry, journal)) if exact else met


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
                journal = await load_journal(connection, id=id)
            if journal is not None:
                verdicts.append((await _judge(backstage, journal))[0])
        if len(found) < _BATCH:
            return verdicts


async def _replay_exactly(backstage: Backstage, journal: Journal) -> list[str]:
    steps, ending = await _replayed(backstage, journal)
    if isinstance(fault := steps.failure, NondeterministicWorkflow):
        raise AssertionError(f"Run {journal.past.run.id!r} diverges: {fault}") from fault  # noqa: TRY004  # for a test
    _compare(journal.past, steps, ending)
    return steps.met


async def _judge(backstage: Backstage, journal: Journal) -> tuple[Verdict, list[str]]:
    """Whether a run could go on, and the keys that its code met."""
    was, journal = journal.past.run, _moved(backstage.registry, journal)
    run, met, problem = journal.past.run, list[str](), None
    if (run.workflow, run.version) not in backstage.registry.workflows:
        problem = f"this code has no version {run.version} of {run.workflow!r}, and no migrate= for it"
    else:
        steps, _ = await _replayed(backstage, journal)
        met = steps.met
        missing = [key for key in steps.orphans() if not steps.around.knows(_name(key))]
        if isinstance(steps.failure, NondeterministicWorkflow):
            problem = str(steps.failure)
        elif missing and not steps.new:
            problem = f"the code ended without asking for {', '.join(missing[:5])}"
    return Verdict(id=was.id, workflow=was.workflow, version=was.version, problem=problem), met


def _moved(registry: Registry, journal: Journal) -> Journal:
    """The journal as the newest code that takes runs of its version over would find it; itself when none does."""
    run, known = journal.past.run, registry.workflows
    takers = [one for one in known.values() if one.name == run.workflow and run.version in one.migrate]
    if (run.workflow, run.version) in known or not takers:
        return journal
    taker, old = max(takers, key=lambda one: one.version), OldRun(run)
    taker.migrate[run.version](old)
    input, keys = old.changes()
    kept = [(new, memo) for key, memo in run.steps.items() if (new := keys.get(key, key)) is not None]
    steps = {new: msgspec.structs.replace(memo, key=new) for new, memo in kept}
    moved = msgspec.structs.replace(run, version=taker.version, input=input, steps=steps, code=None)
    return Journal(dataclasses.replace(journal.past, run=moved), None)


async def _replayed(backstage: Backstage, written: Journal) -> tuple[Steps, tuple[str, str] | None]:
    """The journal after the code went over it, and how the code ended, if it did."""
    run = written.past.run
    definition = backstage.registry.workflows[run.workflow, run.version]
    known = read_code(definition.function)
    around = Surroundings(_Sealed(written.names), lambda: 0.0, _no_pause, known.hash, known.knows, sealed=True)
    journal = Steps(run, runs.Lease(ProcessId(0), JobId(0), 0, run.number), around)
    code = asyncio.ensure_future(_begun(code_of(backstage, definition, known).body, journal))
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


class _Bare:
    """As much of a backstage as code needs that does nothing."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def new_trace(self) -> str:
        """No trace: nothing is caused."""
        return ""


async def _begun(body: Body, journal: Steps) -> str:
    journal.begin()
    return await body(journal, None)


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
