"""Steps: done once, tried again until they succeed or give up, remembered.

A failed attempt is written down before the next one, so that a restart does not forgive it. A short wait before the
next attempt is spent in memory, a long one as a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from chimpbase._core.errors import Conflict, LeaseLost, OutcomeUnknown, StepFailed, Unreachable
from chimpbase._core.retry import Retry
from chimpbase._core.text import name_and_message
from chimpbase._core.values import StepKind, StepMemo
from chimpbase._engine.divergence import Arguments
from chimpbase._engine.rests import Rests
from chimpbase._pg.connection import Connection
from chimpbase._store import runs

_SHORT = timedelta(seconds=5)
#: What the note of a failed attempt says when the run was paused for it: its attempts count anew when it is resumed.
_PAUSED = "paused"

#: Writes a result down, on the connection of a transaction that commits it.
Write = Callable[[Connection, str], Awaitable[None]]
#: Runs a step's function once. Given its key, the attempt number and `write`, which a transactional step calls as the
#: last statement of its own transaction; answers with the result and whether it was written that way.
StepBody = Callable[[str, int, Write], Awaitable[tuple[str, bool]]]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step is tried and kept. `was` is the name it had before; `lazy` lets its row go with the next one."""

    retry: Retry
    pauses: bool = False
    lazy: bool = False
    was: str | None = None


class Steps(Rests):
    """The journal's verbs that do something."""

    __slots__ = ()

    async def step(self, name: str, body: StepBody, *, policy: Policy, given: Arguments | None = None) -> str:
        """The result of a step as JSON text: from the journal, or by running it until it succeeds or gives up.

        Raises:
            StepFailed: it gave up, now or in an earlier activation.
        """
        prefix, key = self.meet(name)
        memo = None
        if policy.was is not None or not self.is_free(key):
            memo = await self.recall(key, "step", given, was=_before(prefix, key, policy.was))
            if memo is not None and memo.kind != "retry":
                self.scopes.passed(prefix, memo.finished_at)
                return _result(memo)
        done = await self._attempts(key, memo, body, policy, given)
        self.scopes.passed(prefix, done.finished_at)
        return _result(done)

    async def once(self, name: str, kind: StepKind, act: Callable[[Connection, str], Awaitable[str]]) -> str:
        """Do something to the database that commits with its row: start a child, make a token. Its result."""
        prefix, key = self.meet(name)
        memo = await self.recall(key, kind)
        if memo is not None:
            self.scopes.passed(prefix, memo.finished_at)
            return _result(memo)

        async def body(key: str, attempt: int, write: Write) -> tuple[str, bool]:
            del attempt
            return await self.around.ledger.atomically(lambda connection: act(connection, key), write), True

        policy = Policy(Retry(max_attempts=5, first=timedelta(seconds=0.2), give_up_on=(Conflict,)))
        done = await self._attempts(key, None, body, policy, None, kind=kind)
        self.scopes.passed(prefix, done.finished_at)
        return _result(done)

    async def _attempts(
        self,
        key: str,
        memo: StepMemo | None,
        body: StepBody,
        policy: Policy,
        given: Arguments | None,
        *,
        kind: StepKind = "step",
    ) -> StepMemo:
        attempt, forgiven = (0, 0) if memo is None else (memo.attempt, _forgiven(memo))
        blank = StepMemo(
            key=key,
            seq=self.next_seq() if memo is None else memo.seq,
            kind=kind,
            digest=given.digest if given else None,
            detail=given.text if given else None,
            started_at=self.clock() if memo is None else memo.started_at,
            finished_at=self.run.now,
        )
        if memo is not None and memo.result is not None:
            await self.until(key, blank.seq, msgspec.json.decode(memo.result, type=datetime))
        while True:
            attempt += 1
            self.enter()
            try:
                # the first attempt is what nearly every step gets by with, and a blank is one
                tried = blank if attempt == 1 else msgspec.structs.replace(blank, attempt=attempt)
                outcome = await self._try(tried, body, policy, forgiven)
            finally:
                self.leave()
            if isinstance(outcome, StepMemo):
                return outcome
            if outcome is None:
                await self.stop()
            elif outcome > _SHORT:
                await self.until(key, blank.seq, self.clock() + outcome)
            else:
                self.enter()
                try:
                    await self.around.pause(outcome.total_seconds())
                finally:
                    self.leave()

    async def _try(self, memo: StepMemo, body: StepBody, policy: Policy, forgiven: int) -> StepMemo | timedelta | None:
        """One attempt: what was written, or how long to wait before the next, or None when the run pauses over it."""
        writing = _Writing(self, memo)
        try:
            if self._riders:
                await self.flush()
            result, written = await body(memo.key, memo.attempt, writing.write)
        except (LeaseLost, Unreachable, OutcomeUnknown) as error:
            # not the step's failure: whether it counts is in the journal, for the next activation to read
            await self.lose(error)
            raise
        except asyncio.CancelledError:
            await self._cancelled(memo)
            raise
        except (Exception, SystemExit) as error:  # out of a branch's task an exit would end the whole program
            return await self._failed(memo, error, policy, memo.attempt - forgiven, forgiven)
        if written:
            return writing.memo
        done = _with_result(memo, result, self.clock())
        if policy.lazy:
            self.rider(done)
        else:
            await self.write(done)
        return done

    async def _failed(
        self, memo: StepMemo, error: Exception | SystemExit, policy: Policy, tries: int, forgiven: int
    ) -> StepMemo | timedelta | None:
        message = name_and_message(error)
        failed = msgspec.structs.replace(memo, error=message, finished_at=self.clock())
        if tries < policy.retry.max_attempts and policy.retry.retries(error):
            delay = policy.retry.delay(tries, random=self.around.random)
            due = f'"{(failed.finished_at + delay).isoformat()}"' if delay > _SHORT else None
            note = msgspec.structs.replace(failed, kind="retry", detail=str(forgiven), result=due)
            await self.write(note)
            return delay
        if policy.pauses:
            await self.write(msgspec.structs.replace(failed, kind="retry", detail=_PAUSED))
            self.pausing = True
            self.pause_reason = f"{memo.key} used up its attempts: {message}"
            return None
        await self.write(failed)
        raise StepFailed(memo.key, message) from error

    async def _cancelled(self, memo: StepMemo) -> None:
        """The code itself cancelled the step (a timeout, a failed sibling): it is cancelled in every activation."""
        if self.closed or self.cancelling:
            return
        cancelled = msgspec.structs.replace(memo, kind="cancelled", finished_at=self.clock())
        await asyncio.shield(self.write(cancelled))


class _Writing:
    """The row of one attempt, to be written in a transaction of the step's own. One is made for each."""

    __slots__ = ("_journal", "memo")

    def __init__(self, journal: Steps, memo: StepMemo) -> None:
        self._journal, self.memo = journal, memo

    async def write(self, connection: Connection, result: str) -> None:
        journal = self._journal
        self.memo = done = _with_result(self.memo, result, journal.clock())
        if not await runs.memo(connection, [runs.Memo(journal.lease, done)]):
            raise LeaseLost(f"run {journal.run.id!r}, step {done.key!r}: written by another activation")


def _with_result(memo: StepMemo, result: str, at: datetime) -> StepMemo:
    # by name, which is half of what `replace` takes
    return StepMemo(
        key=memo.key,
        seq=memo.seq,
        kind=memo.kind,
        attempt=memo.attempt,
        digest=memo.digest,
        started_at=memo.started_at,
        finished_at=at,
        detail=memo.detail,
        result=result,
    )


def _before(prefix: str, key: str, was: str | None) -> str | None:
    return None if was is None else f"{prefix}{was}{key[key.rfind('#') :]}"


def _forgiven(memo: StepMemo) -> int:
    return memo.attempt if memo.detail == _PAUSED else int(memo.detail or 0)


def _result(memo: StepMemo) -> str:
    if memo.error is not None:
        raise StepFailed(memo.key, memo.error)
    return memo.result if memo.result is not None else "null"
