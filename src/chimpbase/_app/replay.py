"""Replays a run's code over its journal, and sees whether it goes the same way. It reads, and writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from chimpbase._app.backstage import Backstage
from chimpbase._app.definitions import Workflow
from chimpbase._app.origin import Origin
from chimpbase._app.wf import Wf
from chimpbase._core.errors import NotFound, NotRegistered
from chimpbase._core.retry import Retry
from chimpbase._core.text import name_and_message
from chimpbase._core.values import ClaimedJob, JobId, LoadedRun, ProcessId, QueueId
from chimpbase._engine.journal import Journal, StepBody
from chimpbase._pg.db import Db
from chimpbase._store import rehearsal, runs

_NOBODY = ProcessId(0)
_NO_JOB = ClaimedJob(
    JobId(0), QueueId(0), 0, 0, 0, 0, False, None, datetime(2000, 1, 1, tzinfo=UTC), "", None, None, None
)
#: What a verb waits for that would do something new: it never comes.
_NEVER = "chimpbase.never"


async def replay(backstage: Backstage, db: Db, *, id: str) -> list[str]:
    """See `Rehearsal.crash_and_replay`."""
    async with db.acquire() as connection:
        past = await rehearsal.load_run(connection, id=id)
    if past is None:
        raise NotFound("run", id)
    definition = backstage.registry.workflows.get((past.run.workflow, past.run.version))
    if definition is None:
        raise NotRegistered("workflow", f"{past.run.workflow}@{past.run.version}")
    journal = _Replay(past.run)
    code = asyncio.ensure_future(_body(backstage, definition, journal))
    stirred = asyncio.ensure_future(journal.stirred.wait())
    try:
        await asyncio.wait({code, stirred}, return_when=asyncio.FIRST_COMPLETED)
        ending = _ending(code) if code.done() else None
    finally:
        stirred.cancel()
        journal.close()
        code.cancel()
        await asyncio.wait({code})
    _compare(past, journal, ending)
    return journal.met


class _Replay(Journal):
    """Answers with what is written; a verb that would do something new rests for ever instead."""

    def __init__(self, run: LoadedRun) -> None:
        super().__init__(run, job=_NO_JOB, process=_NOBODY, ledger=_Sealed(), random=lambda: 0.0, pause=_no_pause)
        self.met: list[str] = []
        self.new_steps: list[str] = []
        self.new_waits: list[str] = []

    async def step(self, name: str, body: StepBody, *, retry: Retry) -> str:
        if self._is_new(name):
            await self._stop(name, self.new_steps)
        return await super().step(name, body, retry=retry)

    async def sleep(self, name: str, *, until: Callable[[datetime], datetime]) -> None:
        if self._is_new(name):
            await self._stop(name, self.new_waits)
        await super().sleep(name, until=until)

    async def wait(self, signal: str, *, timeout: timedelta | None) -> str | None:
        if self._is_new(f"wait:{signal}"):
            await self._stop(f"wait:{signal}", self.new_waits)
        return await super().wait(signal, timeout=timeout)

    def _is_new(self, name: str) -> bool:
        self.met.append(self.peek(name))
        return self.met[-1] not in self.run.steps

    async def _stop(self, name: str, new: list[str]) -> None:
        new.append(self._key(name))
        await super().wait(_NEVER, timeout=None)


class _Sealed:
    """A ledger that nothing is written to."""

    async def memo(self, memo: runs.Memo) -> bool:
        raise AssertionError(f"a replay wrote {memo.step.key}")

    async def consume(
        self, *, process: ProcessId, job: ClaimedJob, run: int, name: str, key: str, seq: int, started_at: datetime
    ) -> str | None:
        return None


async def _no_pause(_seconds: float) -> None:
    return


async def _body(backstage: Backstage, definition: Workflow[object, object], journal: Journal) -> str:
    origin = Origin(
        title=definition.title,
        name=definition.name,
        cause=f"workflow:{definition.name}",
        new_trace=backstage.new_trace,
    )
    journal.begin()
    given = definition.input_codec.decode(journal.run.input, subject=f"input of run {journal.run.id!r}")
    result = await definition.function(
        Wf(backstage, journal, origin), *((given,) if definition.parameters.items else ())
    )
    return definition.return_codec.encode(result, subject=f"result of run {journal.run.id!r}")


def _ending(code: asyncio.Future[str]) -> tuple[str, str]:
    """How the code ended: the state and the result or error that its run would have."""
    error = code.exception() if not code.cancelled() else asyncio.CancelledError("the workflow cancelled itself")
    return ("completed", code.result()) if error is None else ("failed", name_and_message(error))


def _compare(past: rehearsal.PastRun, journal: _Replay, ending: tuple[str, str] | None) -> None:
    run, met = past.run, set(journal.met)
    unmet = [key for key in run.steps if key.removesuffix(".timeout") not in met]
    if unmet:
        raise AssertionError(
            f"Run {run.id!r} wrote {unmet}, and its code did not come there again; it met {journal.met}."
        )
    ended = past.state in {"completed", "failed"}
    new = journal.new_steps + journal.new_waits if ended or ending else journal.new_steps
    if new and past.state != "running":
        raise AssertionError(f"Run {run.id!r} is {past.state}, and its code went on to {new}, which it never wrote.")
    if ended and ending != (past.state, past.output if past.error is None else past.error):
        was = f"{past.state} with {past.output or past.error}"
        raise AssertionError(f"Run {run.id!r} {was}, and its code now gives {ending}.")
