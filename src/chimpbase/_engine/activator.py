"""Drives one activation of a workflow run: load the journal, run the code, suspend or end.

The code runs as a task. It can end (the run is completed or failed, together with its activation), come to rest (the
run is suspended, the code unwound, only rows remain), or lose its lease (nothing is written any more). A signal that
arrives while the code runs is noted in the run's row; `suspend` finds the note and the activation serves it before it
may rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from chimpbase._core.errors import AttemptError, LeaseLost
from chimpbase._core.text import name_and_message
from chimpbase._core.values import ClaimedJob, LoadedRun, ProcessId
from chimpbase._engine.attempt import Attempt
from chimpbase._engine.journal import Journal
from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.db import Db
from chimpbase._store import runs

_BATCH = 500
_log = logging.getLogger("chimpbase.workflow")

#: The code of a workflow: given the journal, it answers with its result as JSON text.
Body = Callable[[Journal], Awaitable[str]]


class Activator:
    """Runs activations, and writes for their journals. `on_ended` hears the id of every run that ended here."""

    def __init__(
        self, db: Db, *, random: Callable[[], float], on_later: Callable[[float], None], on_ended: Callable[[str], None]
    ) -> None:
        self._db, self._random, self._on_later, self._on_ended = db, random, on_later, on_ended
        self._memos: Coalescer[runs.Memo, bool] = Coalescer(self._flush, max_batch=_BATCH)
        #: How a step waits (seconds) before its next try; a rehearsal moves the clock instead.
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def activate(self, attempt: Attempt, body: Body) -> None:
        """Run one activation to its end or its next rest.

        Raises:
            LeaseLost: another process has the run; nothing of this activation counts any more.
            DatabaseError: the journal could not be read or written; the activation is tried again.
        """
        job, number = attempt.job, int(attempt.job.payload)
        async with self._db.acquire() as connection:
            run = await runs.load_journal(connection, process=attempt.process, job=job, run=number)
        if run is None:
            return  # ended, or not ours: the executor's own settling finds out which
        journal = Journal(run, job=job, process=attempt.process, ledger=self, random=self._random, pause=self.pause)
        code = asyncio.ensure_future(_contained(body, journal))
        try:
            await self._drive(attempt, journal, code)
        finally:
            journal.close()
            await _unwind(code)

    async def memo(self, memo: runs.Memo) -> bool:
        """Write a step; whether it was written by this call."""
        return await self._memos.submit(memo)

    async def close(self) -> None:
        """Write what is waiting."""
        await self._memos.close()

    async def _drive(self, attempt: Attempt, journal: Journal, code: asyncio.Future[str]) -> None:
        while True:
            stirred = asyncio.create_task(journal.stirred.wait())
            try:
                await asyncio.wait({code, stirred}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stirred.cancel()
            if journal.failure is not None:
                raise journal.failure
            if code.done():
                return await self._end(attempt, journal.run, code)
            journal.stirred.clear()
            if journal.resting and await self._suspend(attempt, journal):
                return None

    async def _suspend(self, attempt: Attempt, journal: Journal) -> bool:
        run, (due_at, signals, timers) = journal.run, journal.plan()
        async with self._db.acquire() as connection:
            suspended, woken = await runs.suspend(
                connection,
                process=attempt.process,
                job=attempt.job,
                run=run.number,
                state="waiting" if signals else "sleeping",
                due_at=due_at,
                waits=signals,
                timers=timers,
            )
        if suspended:
            attempt.settled = True
            if due_at is not None:
                self._on_later((due_at - journal.now()).total_seconds())
            _log.info("%s %s %s", run.workflow, run.id, _rest_word(signals, due_at), extra={"data": _data(run)})
            return True
        if not woken:
            raise LeaseLost(f"run {run.id!r}: this activation lost its lease")
        await journal.serve()
        if journal.resting:
            journal.stirred.set()
        return False

    async def _end(self, attempt: Attempt, run: LoadedRun, code: asyncio.Future[str]) -> None:
        error = asyncio.CancelledError("the workflow cancelled itself") if code.cancelled() else code.exception()
        failed = None if error is None else name_and_message(error)
        async with self._db.acquire() as connection:
            held = await runs.finish(
                connection,
                process=attempt.process,
                job=attempt.job,
                run=run.number,
                state="completed" if error is None else "failed",
                output=code.result() if error is None else None,
                error=failed,
            )
        if not held:
            raise LeaseLost(f"run {run.id!r}: this activation lost its lease")
        attempt.settled = True
        self._on_ended(run.id)
        if error is None:
            _log.info("%s %s completed", run.workflow, run.id, extra={"data": _data(run)})
        else:
            _log.error("%s %s failed: %s", run.workflow, run.id, failed, exc_info=error, extra={"data": _data(run)})

    async def consume(
        self, *, process: ProcessId, job: ClaimedJob, run: int, name: str, key: str, seq: int, started_at: datetime
    ) -> str | None:
        """Decide a wait with the oldest signal of its name, if there is one."""
        async with self._db.acquire() as connection:
            return await runs.consume(
                connection, process=process, job=job, run=run, name=name, key=key, seq=seq, started_at=started_at
            )

    async def _flush(self, memos: list[runs.Memo]) -> Sequence[bool]:
        async with self._db.acquire() as connection:
            written = await runs.memo(connection, memos)
        return [(memo.run, memo.step.key) in written for memo in memos]


async def _contained(body: Body, journal: Journal) -> str:
    journal.begin()
    try:
        return await body(journal)
    except (SystemExit, GeneratorExit) as error:  # out of a task these would end the whole program
        raise AttemptError(f"{type(error).__name__} came out of the workflow") from error


async def _unwind(code: asyncio.Future[str]) -> None:
    """Cancel the code and wait until it is gone; what it raises on its way out concerns nobody."""
    while not code.done():
        code.cancel()
        await asyncio.wait({code}, timeout=1)
    if not code.cancelled():
        code.exception()


def _rest_word(signals: Sequence[str], due_at: datetime | None) -> str:
    until = f" until {due_at.isoformat(timespec='seconds')}" if due_at else ""
    return f"waits for {', '.join(signals)}{until}" if signals else f"sleeps{until}"


def _data(run: LoadedRun) -> dict[str, object]:
    return {"workflow": run.workflow, "run": run.id, "version": run.version}
