"""The memo journal of one run, as its code walks through it during one activation.

A verb looks its key up in the journal: what is there is answered at once, what is not is done and written, one row
each. Keys are `name#n`, n counting the uses of that name, so adding or removing other names moves nothing. Each task
that the run's code makes (gather, TaskGroup) is a scope of its own, `t1/name#n`, numbered in the order in which the
tasks first use a verb: which branch ends first changes no key.

Invariant: a verb never returns before its row is committed. Once the journal is closed (suspended, lost, ended) no verb
returns at all: the activation is being unwound and nothing in it may act any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from chimpbase._core.errors import DatabaseError, LeaseLost, OutcomeUnknown, StepFailed, Unreachable
from chimpbase._core.retry import Retry
from chimpbase._core.text import name_and_message
from chimpbase._core.values import ClaimedJob, LoadedRun, ProcessId, StepMemo
from chimpbase._pg.connection import Connection
from chimpbase._store import runs

_QUIET_HOPS = 8
_Scope = tuple["asyncio.Task[object] | None", str]
_scope: ContextVar[_Scope] = ContextVar("chimpbase_scope", default=(None, ""))

#: Runs a step's function once. Given the attempt number and `write(connection, result)`, which a transactional step
#: calls as the last statement of its own transaction; answers with the result and whether it was written that way.
StepBody = Callable[[int, Callable[[Connection, str], Awaitable[None]]], Awaitable[tuple[str, bool]]]


class Unwound(BaseException):
    """Raised into code that calls a verb after its activation ended; not an Exception, so that nobody swallows it."""


class Ledger(Protocol):
    """Where the journal writes: coalesced memos, and the decision of a wait."""

    async def memo(self, memo: runs.Memo) -> bool: ...
    async def consume(
        self, *, process: ProcessId, job: ClaimedJob, run: int, name: str, key: str, seq: int, started_at: datetime
    ) -> str | None: ...


@dataclass(slots=True)
class _Wait:
    key: str
    seq: int
    signal: str | None
    due_at: datetime | None
    timer: runs.Timer | None
    started_at: datetime
    answer: asyncio.Future[str | None] = field(repr=False)


class Journal:
    """What a run has done so far, and the only way for it to do more."""

    def __init__(
        self,
        run: LoadedRun,
        *,
        job: ClaimedJob,
        process: ProcessId,
        ledger: Ledger,
        random: Callable[[], float],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.run = run
        self.failure: BaseException | None = None
        self.stirred = asyncio.Event()
        self._job, self._process, self._ledger = job, process, ledger
        self._random, self._pause = random, pause
        self._uses: Counter[str] = Counter()
        self._tasks: Counter[str] = Counter()
        self._seq = len(run.steps)
        self._active = 0
        self._moves = 0
        self._waits: list[_Wait] = []
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._loaded_at = self._loop.time()

    def now(self) -> datetime:
        """The database's clock, carried on by the monotonic one since the run was loaded."""
        return self.run.now + timedelta(seconds=self._loop.time() - self._loaded_at)

    # Verbs of the run

    async def step(self, name: str, body: StepBody, *, retry: Retry) -> str:
        """The result of a step as JSON text: from the journal, or by running it until it succeeds or gives up.

        Raises:
            StepFailed: it gave up, now or in an earlier activation.
        """
        key = self._key(name)
        if (memo := self.run.steps.get(key)) is not None:
            return _result(memo)
        with self._acting():
            return await self._run_step(key, body, retry)

    async def sleep(self, name: str, *, until: Callable[[datetime], datetime]) -> None:
        """Rest until an instant that is fixed when the run first comes here; `until` computes it from now."""
        key = self._key(name)
        memo = self.run.steps.get(key)
        due_at = until(self.now()) if memo is None else _instant(memo)
        if memo is not None and due_at <= self.now():
            return
        seq = self._next_seq()
        timer = runs.Timer(key=key, seq=seq, due_at=due_at) if memo is None else None
        await self._rest(_Wait(key, seq, None, due_at, timer, self.now(), self._loop.create_future()))

    async def wait(self, signal: str, *, timeout: timedelta | None) -> str | None:
        """The payload of the next signal of that name as JSON text, or None when `timeout` passed first."""
        key = self._key(f"wait:{signal}")
        if (memo := self.run.steps.get(key)) is not None:
            return memo.result
        seq, started_at = self._next_seq(), self.now()
        timer_key = f"{key}.timeout"
        timer_memo = self.run.steps.get(timer_key)
        timer, due_at = None, None
        if timer_memo is not None:
            due_at = _instant(timer_memo)
        elif timeout is not None:
            due_at = started_at + timeout
            timer = runs.Timer(key=timer_key, seq=self._next_seq(), due_at=due_at)
        wait = _Wait(key, seq, signal, due_at, timer, started_at, self._loop.create_future())
        with self._acting():
            if await self._serve(wait):
                return wait.answer.result()
        return await self._rest(wait)

    # For the activator

    def close(self, failure: BaseException | None = None) -> None:
        """Let no verb act any more; `failure` is why, when it is one."""
        self._closed = True
        self.failure = self.failure or failure
        self.stirred.set()

    def peek(self, name: str) -> str:
        """The key that the next use of a name will get."""
        name = self._scoped(name)
        return f"{name}#{self._uses[name] + 1}"

    @property
    def resting(self) -> bool:
        """Nothing is being done and something is being waited for."""
        return not self._closed and self._active == 0 and any(not wait.answer.done() for wait in self._waits)

    def plan(self) -> tuple[datetime | None, list[str], list[runs.Timer]]:
        """For a suspension: the earliest instant waited for, the signals waited for, the timers not yet written."""
        open_waits = [wait for wait in self._waits if not wait.answer.done()]
        dues = [wait.due_at for wait in open_waits if wait.due_at is not None]
        signals = sorted({wait.signal for wait in open_waits if wait.signal is not None})
        return min(dues, default=None), signals, [wait.timer for wait in open_waits if wait.timer is not None]

    async def serve(self) -> None:
        """Give every open wait what has come for it; for an activation that was woken while it was active."""
        for wait in list(self._waits):
            if not wait.answer.done() and wait.signal is not None:
                with self._acting():
                    await self._serve(wait)
        self._waits = [wait for wait in self._waits if not wait.answer.done()]

    # Inside

    async def _run_step(self, key: str, body: StepBody, retry: Retry) -> str:
        seq, started_at, attempt = self._next_seq(), self.now(), 0
        while True:
            attempt += 1
            memo = StepMemo(key=key, seq=seq, kind="step", attempt=attempt, started_at=started_at)

            async def write(connection: Connection, result: str, *, memo: StepMemo = memo) -> None:
                entry = self._entry(replace(memo, result=result))
                if not await runs.memo(connection, [entry]):
                    raise LeaseLost(f"run {self.run.id!r}, step {key!r}: written by another activation")

            try:
                result, written = await body(attempt, write)
            except (LeaseLost, Unreachable, OutcomeUnknown) as error:
                # not the step's failure: whether it counts is in the journal, for the next activation to read
                return await self._lose(error)
            except (Exception, SystemExit) as error:  # out of a branch's task an exit would end the whole program
                if attempt < retry.max_attempts and retry.retries(error):
                    await self._pause(retry.delay(attempt, random=self._random).total_seconds())
                    continue
                message = name_and_message(error)
                await self._write(replace(memo, error=message))
                raise StepFailed(key, message) from error
            if not written:
                await self._write(replace(memo, result=result))
            return result

    async def _write(self, memo: StepMemo) -> None:
        try:
            written = await self._ledger.memo(self._entry(memo))
        except DatabaseError as error:
            await self._lose(error)
            return
        if not written:
            await self._lose(LeaseLost(f"run {self.run.id!r}, step {memo.key!r}: this activation lost its lease"))

    async def _serve(self, wait: _Wait) -> bool:
        """Whether the wait is decided: by a signal, else by its own deadline."""
        assert wait.signal is not None
        try:
            payload = await self._ledger.consume(
                process=self._process,
                job=self._job,
                run=self.run.number,
                name=wait.signal,
                key=wait.key,
                seq=wait.seq,
                started_at=wait.started_at,
            )
        except DatabaseError as error:
            await self._lose(error)
            return False
        if payload is None and wait.due_at is not None and wait.timer is None and wait.due_at <= self.now():
            await self._write(StepMemo(key=wait.key, seq=wait.seq, kind="wait", started_at=wait.started_at))
        elif payload is None:
            return False
        if not wait.answer.done():
            wait.answer.set_result(payload)
        return True

    async def _rest(self, wait: _Wait) -> str | None:
        if self._closed:
            raise Unwound
        self._waits.append(wait)
        self._move()
        return await wait.answer

    async def _lose(self, error: LeaseLost | DatabaseError) -> str:
        """End the activation from inside a verb: the driver cancels the code that waits here."""
        self.close(error)
        await self._loop.create_future()
        raise Unwound

    def begin(self) -> None:
        """Make the task that calls this the root scope: the run's own code."""
        _scope.set((asyncio.current_task(), ""))

    def _scoped(self, name: str) -> str:
        task = asyncio.current_task()
        owner, prefix = _scope.get()
        if owner is not task:
            # the context was inherited from the task that made this one: its first verb opens a scope
            self._tasks[prefix] += 1
            prefix = f"{prefix}t{self._tasks[prefix]}/"
            _scope.set((task, prefix))
        return prefix + name

    def _key(self, name: str) -> str:
        if self._closed:
            raise Unwound
        name = self._scoped(name)
        self._uses[name] += 1
        return f"{name}#{self._uses[name]}"

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _entry(self, memo: StepMemo) -> runs.Memo:
        return runs.Memo(
            process=self._process, job=self._job.id, fence=self._job.attempt, run=self.run.number, step=memo
        )

    def _acting(self) -> _Acting:
        if self._closed:
            raise Unwound
        return _Acting(self)

    def enter(self) -> None:
        """A verb begins to act."""
        self._active += 1
        self._moves += 1

    def leave(self) -> None:
        """A verb has acted."""
        self._active -= 1
        self._move()

    def _move(self) -> None:
        self._moves += 1
        if self._active == 0 and self._waits:
            self._loop.call_soon(self._settle, self._moves, _QUIET_HOPS)

    def _settle(self, moves: int, hops: int) -> None:
        # the run's code needs turns of the loop to go on after a verb returns, one for each task in between
        if moves != self._moves:
            return
        if hops:
            self._loop.call_soon(self._settle, moves, hops - 1)
        elif self.resting:
            self.stirred.set()


@dataclass(slots=True)
class _Acting:
    journal: Journal

    def __enter__(self) -> None:
        self.journal.enter()

    def __exit__(self, *exc: object) -> None:
        self.journal.leave()


def _result(memo: StepMemo) -> str:
    if memo.error is not None:
        raise StepFailed(memo.key, memo.error)
    assert memo.result is not None
    return memo.result


def _instant(memo: StepMemo) -> datetime:
    return msgspec.json.decode(memo.result or "null", type=datetime)
