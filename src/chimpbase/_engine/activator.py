"""Drives one activation of a workflow run: load the journal, run the code, suspend or end.

The code runs as a task. It can end (the run is completed, failed or cancelled, together with its activation), come to
rest (the run is suspended, the code unwound, only rows remain), begin anew, diverge from the journal (the run is
blocked), or lose its lease (nothing is written any more). A message that arrives while the code runs is noted in the
run's row; `suspend` finds the note and the activation serves it before it may rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from chimpbase._core.errors import AttemptError, DatabaseError, LeaseLost, NondeterministicWorkflow
from chimpbase._core.outcomes import DeadLetter, Snooze
from chimpbase._core.text import name_and_message
from chimpbase._core.values import LoadedRun, QueueId, RunEnd
from chimpbase._engine.attempt import Attempt, Outcome
from chimpbase._engine.journal import Surroundings
from chimpbase._engine.ledger import RunLedger
from chimpbase._engine.steps import Steps
from chimpbase._pg.db import Db
from chimpbase._store import runs

_log = logging.getLogger("chimpbase.workflow")

#: The code of a workflow: given the journal, and the attempt that runs it if one does, it answers with its result as
#: JSON text.
Body = Callable[[Steps, Attempt | None], Awaitable[str]]


class Continued(BaseException):
    """Raised out of the code to begin the run anew with `input` (JSON text)."""

    def __init__(self, input: str) -> None:
        self.input = input
        super().__init__(input)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A workflow as the engine knows it. `hash` is for diagnosis; `knows` tells whether it has a step of a name.

    `migrate(run)` makes of a run of an older version (input, keys by their old ones, None to drop), or None.
    """

    workflow: str
    version: int
    body: Body
    hash: str
    knows: Callable[[str], bool]
    migrate: Callable[[LoadedRun], tuple[str, Mapping[str, str | None]] | None] = field(default=lambda _run: None)


class Activator:
    """Runs activations. `on_ended` hears of every run that ended here; of one that is blocked only the id."""

    def __init__(
        self,
        db: Db,
        *,
        random: Callable[[], float],
        on_later: Callable[[float], None],
        on_ready: Callable[[Iterable[QueueId]], None],
        on_ended: Callable[[str, RunEnd | None], None],
        watch_s: float,
    ) -> None:
        self._db, self._random, self._watch_s = db, random, watch_s
        self._on_later, self._on_ready, self._on_ended = on_later, on_ready, on_ended
        self._ledger = RunLedger(db)
        self._active: dict[int, Steps] = {}
        self._here: set[str] = set()
        #: Runs that were started here and are about to begin, by number: there is nothing more to know of them yet.
        self._expected: dict[int, LoadedRun] = {}
        self._watching: asyncio.Task[None] | None = None
        #: How a step waits (seconds) before its next try; a rehearsal moves the clock instead.
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    def activating(self, code: Code) -> Callable[[Attempt], Awaitable[Outcome]]:
        """How activations of that code are run: each to its end or its next rest.

        Raises:
            LeaseLost: another process has the run; nothing of this activation counts any more.
            DatabaseError: the journal could not be read or written; the activation is tried again.
        """
        around = Surroundings(self._ledger, self._random, self._pause, code.hash, code.knows)
        return lambda attempt: self._activate(attempt, code, around)

    async def _pause(self, wait_s: float) -> None:
        await self.pause(wait_s)

    async def _activate(self, attempt: Attempt, code: Code, around: Surroundings) -> Outcome:
        job = attempt.job
        lease = runs.Lease(attempt.process, job.id, job.attempt, int(job.payload))
        run = self._expected.pop(lease.run, None)
        if run is None or lease.attempt > 1:
            run = await self._ledger.load(lease)
        if run is None:
            return None  # ended, or not ours: the executor's own settling finds out which
        if run.version != code.version:
            self._here.discard(run.id)
            return await self._migrate(run, lease, code)
        journal = self._active[run.number] = Steps(run, lease, around)
        self._here.add(run.id)
        self._watch()
        task = asyncio.get_running_loop().create_task(_contained(code.body, journal, attempt))
        task.add_done_callback(journal.stir)
        try:
            return await self._drive(attempt, journal, task)
        finally:
            self._active.pop(run.number, None)
            self._here.discard(run.id)
            journal.close()
            journal.view = _nothing  # what it is asked of holds the journal
            if not task.done() or journal.scopes.tasks:
                await _unwind(task, journal)

    def expect(self, runs: Iterable[LoadedRun]) -> None:
        """These runs were started for slots of this process: their activations begin with what is known of them."""
        for run in runs:
            self._expected[run.number] = run
            self._here.add(run.id)

    def is_here(self, id: str) -> bool:
        """Whether a run is active in this process, and so will be told of when it ends here."""
        return id in self._here

    def disturb(self, number: int, *, cancel: bool, reason: str | None = None) -> None:
        """A run is to be cancelled or paused; if it is active here its code hears it now."""
        if (expected := self._expected.pop(number, None)) is not None:
            self._here.discard(expected.id)  # it is to read what was done to it before it began
        if (journal := self._active.get(number)) is not None:
            if cancel:
                journal.cancel(reason)
            else:
                journal.halt()

    async def close(self) -> None:
        """Write what is waiting."""
        if self._watching is not None:
            self._watching.cancel()
        await self._ledger.close()

    async def _drive(self, attempt: Attempt, journal: Steps, code: asyncio.Future[str]) -> Outcome:
        while True:
            await journal.stirred.wait()
            if journal.failure is not None:
                if isinstance(journal.failure, NondeterministicWorkflow):
                    return await self._block(attempt, journal, journal.failure)
                raise journal.failure
            if code.done():
                await self._end(attempt, journal, code)
                return None
            journal.stirred.clear()
            if journal.takes_updates:
                await journal.aside(journal.apply_updates())
            if journal.resting and await self._suspend(attempt, journal):
                # unsettled: it was resumed before it had come to rest, and begins again at once
                return None if attempt.settled else Snooze(timedelta(0))

    async def _suspend(self, attempt: Attempt, journal: Steps) -> bool:
        """Whether this activation is over; else it is to go on."""
        run, (due_at, waits, timers) = journal.run, journal.plan()
        await journal.flush()
        rest = runs.Rest(
            state="waiting" if any(not name.startswith("@update:") for name in waits) else "sleeping",
            due_at=due_at,
            waits=waits,
            timers=timers,
            now=journal.clock(),
            heard=journal.cancelling,
            pause=journal.pause_reason,
            view=journal.view(),
            code=journal.around.code,
        )
        rested = await self._ledger.suspend(journal.lease, rest)
        if rested.suspended:
            attempt.settled = True
            if due_at is not None:
                self._on_later((due_at - journal.clock()).total_seconds())
            _log.info("%s %s %s", run.workflow, run.id, _rest_word(waits, due_at, journal), extra={"data": _data(run)})
            return True
        if not rested.woken:
            raise LeaseLost(f"run {run.id!r}: this activation lost its lease")
        if journal.pausing:
            return True
        if rested.cancel_reason is not None and not journal.cancelling:
            journal.cancel(rested.cancel_reason)
            return False
        await journal.aside(journal.serve())
        if journal.resting:
            journal.stirred.set()
        return False

    async def _end(self, attempt: Attempt, journal: Steps, code: asyncio.Future[str]) -> None:
        run = journal.run
        error = asyncio.CancelledError("the workflow cancelled itself") if code.cancelled() else code.exception()
        if isinstance(error, Continued):
            # a row that is still on its way would be written into the journal that is to be empty
            await journal.flush()
            if not await self._ledger.continue_as(journal.lease, input=error.input, view=journal.view()):
                raise LeaseLost(f"run {run.id!r}: this activation lost its lease")
            attempt.settled = True
            self._on_ready([attempt.job.queue])
            _log.info("%s %s begins anew", run.workflow, run.id, extra={"data": _data(run)})
            return
        cancelled = code.cancelled() and journal.cancelling
        failed = None if error is None else name_and_message(error)
        ending = runs.Ending(
            journal.lease,
            "completed" if error is None else "cancelled" if cancelled else "failed",
            code.result() if error is None else None,
            (journal.cancel_reason or failed) if cancelled else failed,
            journal.view(),
            journal.around.code,
        )
        await journal.flush()
        queues = await self._ledger.end(ending, family=journal.has_family)
        if queues is None:
            raise LeaseLost(f"run {run.id!r}: this activation lost its lease")
        attempt.settled = True
        end = RunEnd(run.id, run.workflow, run.version, ending.state, ending.output, ending.error)
        self._on_ended(run.id, end)
        if queues:
            self._on_ready(queues)
        if error is not None and not cancelled:
            _log.error("%s %s failed: %s", run.workflow, run.id, failed, exc_info=error, extra={"data": _data(run)})
        elif _log.isEnabledFor(logging.INFO):
            _log.info("%s %s %s", run.workflow, run.id, ending.state, extra={"data": _data(run)})
        if orphans := journal.orphans():
            _log.warning(
                "%s %s did steps that its code no longer has: %s", run.workflow, run.id, ", ".join(orphans[:10])
            )

    async def _block(self, attempt: Attempt, journal: Steps, fault: NondeterministicWorkflow) -> None:
        """Stop the run until somebody mends its code or its journal; the activation is a dead letter."""
        run = journal.run
        async with self._db.acquire() as connection:
            await attempt.settle(connection, DeadLetter(str(fault)))
        attempt.settled = True
        self._on_ended(run.id, None)
        _log.error("%s %s is blocked: %s", run.workflow, run.id, fault, extra={"data": _data(run)})

    async def _migrate(self, run: LoadedRun, lease: runs.Lease, code: Code) -> Outcome:
        moved = code.migrate(run)
        if moved is None:
            raise AttemptError(f"version {code.version} of workflow {code.workflow!r} cannot run version {run.version}")
        input, keys = moved
        held = await self._ledger.migrate(
            lease, workflow=code.workflow, version=code.version, input=input, keys=dict(keys)
        )
        if not held:
            raise LeaseLost(f"run {run.id!r}: this activation lost its lease")
        _log.info("%s %s moved from version %d to %d", run.workflow, run.id, run.version, code.version)
        return Snooze(timedelta(0))

    def _watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._look(), name="watch active runs")

    async def _look(self) -> None:
        """While runs are active: hear of those that somebody elsewhere wants cancelled or paused."""
        while self._active:
            old = list(self._active)
            await asyncio.sleep(self._watch_s)
            numbers = [number for number in old if number in self._active]
            if not numbers:
                continue
            try:
                disturbed = await self._ledger.disturbed(numbers)
            except DatabaseError:
                continue  # who is active will find out for itself
            for number, reason, paused in disturbed:
                if reason is not None:
                    self.disturb(number, cancel=True, reason=reason)
                elif paused:
                    self.disturb(number, cancel=False)


async def _contained(body: Body, journal: Steps, attempt: Attempt) -> str:
    journal.begin()
    try:
        return await body(journal, attempt)
    except (SystemExit, GeneratorExit) as error:  # out of a task these would end the whole program
        raise AttemptError(f"{type(error).__name__} came out of the workflow") from error
    finally:
        journal.scopes.end()


def _nothing() -> None:
    return None


async def _unwind(code: asyncio.Future[str], journal: Steps) -> None:
    """Cancel the code and the tasks it made, and wait until they are gone; what they raise then concerns nobody."""
    while living := [task for task in (code, *journal.scopes.tasks) if not task.done()]:
        for task in living:
            task.cancel()
        await asyncio.wait(living, timeout=1)
    for task in (code, *journal.scopes.tasks):
        if not task.cancelled():
            task.exception()


def _rest_word(waits: Sequence[str], due_at: datetime | None, journal: Steps) -> str:
    until = f" until {due_at.isoformat(timespec='seconds')}" if due_at else ""
    if journal.pausing:
        return f"pauses: {journal.pause_reason or 'somebody asked for it'}"
    return f"waits for {', '.join(waits)}{until}" if waits else f"sleeps{until}"


def _data(run: LoadedRun) -> dict[str, object]:
    return {"workflow": run.workflow, "run": run.id, "version": run.version}
