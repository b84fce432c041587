"""The memo journal of one run, as its code walks through it during one activation.

A verb looks its key up in the journal: what is there is answered at once, what is not is done and written, one row
each. Keys are `name#n` in a scope, n counting the uses of that name, so adding or removing other names moves nothing.

Invariant: a verb never returns before its row is committed (a lazy step's row goes with the next one). Once the journal
is closed (suspended, lost, ended) no verb returns at all: the activation is being unwound and nothing in it may act.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Protocol

from chimpbase._core.errors import DatabaseError, LeaseLost, NondeterministicWorkflow
from chimpbase._core.values import LoadedRun, StepKind, StepMemo
from chimpbase._engine import divergence
from chimpbase._engine.divergence import Arguments
from chimpbase._engine.moves import Unwound, Wishes
from chimpbase._pg.connection import Connection
from chimpbase._store import runs


class Ledger(Protocol):
    """Where the journal writes: coalesced memos, and the decision of a wait."""

    def memo(self, memo: runs.Memo) -> Awaitable[bool]: ...
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
    ) -> tuple[str, str] | None: ...
    async def atomically(
        self,
        act: Callable[[Connection], Awaitable[str]],
        write: Callable[[Connection, str], Awaitable[None]],
    ) -> str: ...
    async def names_of(self, code: str) -> frozenset[str] | None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a journal needs of the process it is in.

    `code` is the hash of the workflow's code, `knows` tells whether that code still has a step of a name. `sealed`
    makes a replay of it: what is not in the journal is noted in `new` and never done.
    """

    ledger: Ledger
    random: Callable[[], float]
    pause: Callable[[float], Awaitable[None]]
    code: str
    knows: Callable[[str], bool]
    sealed: bool = False


class Journal(Wishes):
    """What a run has done so far, and the only way for it to do more. The verbs are in `steps` and `rests`."""

    __slots__ = ("_left", "_riders", "_seq", "around", "has_family", "lease", "met", "new", "view")

    def __init__(self, run: LoadedRun, lease: runs.Lease, around: Surroundings) -> None:
        super().__init__(run)
        self.lease, self.around = lease, around
        #: Keys asked for, in order, and among them those that the journal did not hold.
        self.met: list[str] = []
        self.new: list[str] = []
        known = run.steps.values()
        self.has_family = run.parent is not None or (bool(known) and any(memo.kind == "child" for memo in known))
        self.view: Callable[[], str | None] = _nothing
        self._riders: list[Awaitable[bool]] = []
        self._left = divergence.by_scope(known) if known else {}
        self._seq = max([memo.seq for memo in known]) if known else 0

    # What verbs are made of

    def meet(self, name: str) -> tuple[str, str]:
        """The scope and key of this use of a name."""
        if self.closed:
            raise Unwound
        prefix = self.scopes.prefix()
        key = self.scopes.key(prefix, name)
        self.met.append(key)
        return prefix, key

    def is_free(self, key: str) -> bool:
        """Whether a verb that acts may do so under a key without further question; else `recall` is to find out."""
        if key in self.run.steps or self.cancelling or self.pausing or self.around.sealed:
            return False
        if self._left and self._left.get(divergence.scope_of(key)):
            return False
        self.new.append(key)
        return True

    async def recall(
        self, key: str, kind: StepKind, given: Arguments | None = None, *, was: str | None = None
    ) -> StepMemo | None:
        """What the journal holds under a key, or the one it had before (`was`); else None, and the verb may act."""
        memo = self.run.steps.get(key)
        if memo is None and was is not None:
            memo = self.run.steps.get(was)
        if memo is not None:
            self._left.get(divergence.scope_of(memo.key), {}).pop(memo.key, None)
            if (fault := divergence.changed(key, memo, kind, given)) is not None:
                await self.lose(fault)
            if memo.kind == "cancelled":
                await self.never()
            if memo.kind != "retry":
                return memo
        await self._permit(key, given, known=memo is not None, acts=kind in ("step", "child", "callback"))
        return memo

    def rider(self, memo: StepMemo) -> None:
        """Write a row together with the next one, and wait for neither."""
        row = asyncio.ensure_future(self.around.ledger.memo(runs.Memo(self.lease, memo)))
        row.add_done_callback(_heard)
        self._riders.append(row)

    async def write(self, memo: StepMemo) -> None:
        """Write a row; returns only when it is committed, by this activation."""
        try:
            if self._riders:
                await self.flush()
            written = await self.around.ledger.memo(runs.Memo(self.lease, memo))
        except DatabaseError as error:
            await self.lose(error)
            return
        if not written:
            await self.lose(LeaseLost(f"run {self.run.id!r}, step {memo.key!r}: this activation lost its lease"))

    async def flush(self) -> None:
        """Wait for the rows that were to go with another one."""
        riders, self._riders = self._riders, []
        for rider in riders:
            await rider

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def unique(self, name: str, size: int) -> bytes:
        """Bytes that are the same in every activation, and in a fork; others at every use."""
        _, key = self.meet(name)
        seed = f"{self.run.seed}/{self.run.round}/{key}"
        return blake2b(seed.encode(), digest_size=size).digest()

    def patched(self, id: str) -> bool:
        """Whether code that was added as `id` applies: to what comes now, not to what is being repeated."""
        prefix, key = self.meet(f"patch:{id}")
        if key in self.run.steps:
            return True
        if any(scope.startswith(prefix) and left for scope, left in self._left.items()):
            return False
        if not self.around.sealed:
            now = self.clock()
            self.rider(StepMemo(key=key, seq=self.next_seq(), kind="patch", started_at=now, finished_at=now))
        return True

    # Ways out

    async def lose(self, error: LeaseLost | DatabaseError | NondeterministicWorkflow) -> str:
        """End the activation from inside a verb: the driver cancels the code that waits here."""
        self.close(error)
        return await self.never()

    def orphans(self) -> list[str]:
        """Steps that were done and that the code has not asked for."""
        return [key for left in self._left.values() for key in left]

    async def _permit(self, key: str, given: Arguments | None, *, known: bool, acts: bool) -> None:
        """Return if the verb may do something new."""
        self.new.append(key)
        if acts and not known and (left := self._left.get(divergence.scope_of(key))):
            await self._suspect(key, given, left)
        if self.around.sealed:
            await self.stop()
        if self.cancelling and not self.scopes.shielded:
            if self.delivered:
                raise asyncio.CancelledError("the run is being cancelled")
            self.deliver()
            await self.never()
        if self.pausing and not self.cancelling:
            await self.stop()

    async def _suspect(self, key: str, given: Arguments | None, left: dict[str, StepMemo]) -> None:
        """Stop if what is new may have been done under another name."""
        code = self.run.code
        same = code is not None and code == self.around.code
        try:
            names = None if code is None or same else await self.around.ledger.names_of(code)
        except DatabaseError as error:
            await self.lose(error)
            return
        knew = None if names is None else partial(divergence.mentions, names)
        fault = divergence.added(key, given, left, same_code=same, knows=self.around.knows, knew=knew)
        if fault is not None:
            await self.lose(fault)


def _nothing() -> None:
    return None


def _heard(row: asyncio.Future[bool]) -> None:
    """An activation that ends before it flushes leaves nobody to be told; the next one finds the row, or does not."""
    if not row.cancelled():
        row.exception()
