"""Rests: what a run's code waits for: an instant, a message, or the first of several.

The end of a wait is one row that names its winner. A run all of whose branches wait comes to rest: only rows remain. A
message wakes it; one that arrives before the wait is kept, and taken by the next wait of its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from chimpbase._core.errors import DatabaseError, UsageError
from chimpbase._core.values import LoadedRun, StepMemo
from chimpbase._engine.journal import Journal, Surroundings
from chimpbase._engine.moves import Unwound
from chimpbase._store import runs

#: How the winner of a wait is called when it is one of its timers.
TIMER = "@timer:"
UPDATE = "@update:"
_in_handler: ContextVar[bool] = ContextVar("chimpbase_in_handler", default=False)
#: The name of the winner, its payload as JSON text, and when it won.
Answer = tuple[str, "str | None", datetime]

#: Applies one update: given its key and payload. Does not fail.
Handler = Callable[[str, str], Awaitable[None]]


class _Update(msgspec.Struct):
    name: str


@dataclass(slots=True)
class _Timer:
    name: str
    key: str
    due_at: datetime
    seq: int | None


@dataclass(slots=True)
class _Wait:
    key: str
    seq: int
    names: list[str]
    timers: list[_Timer]
    started_at: datetime
    answer: asyncio.Future[Answer] = field(repr=False)


class Rests(Journal):
    """The journal's verbs that wait."""

    __slots__ = ("_applied", "_handlers", "_updates", "_waits")

    def __init__(self, run: LoadedRun, lease: runs.Lease, around: Surroundings) -> None:
        super().__init__(run, lease, around)
        self._waits: list[_Wait] = []
        self._handlers: dict[str, Handler] = {}
        self._updates = 0
        self._applied: dict[str, list[StepMemo]] = {}
        if not run.steps:
            return
        updates = [memo for memo in run.steps.values() if memo.kind == "update"]
        updates.sort(key=lambda memo: memo.seq)
        self._updates = len(updates)
        for memo in updates:
            self._applied.setdefault(memo.detail or "", []).append(memo)

    async def sleep(self, name: str, *, until: Callable[[datetime], datetime]) -> None:
        """Rest until an instant that is fixed when the run first comes here; `until` computes it from now."""
        prefix, key = self.meet(name)
        await self._repeat_updates(key)
        memo = await self.recall(key, "sleep")
        due_at = until(self.clock()) if memo is None else _instant(memo)
        if memo is None or due_at > self.clock():
            seq = self.next_seq() if memo is None else None
            await self._rest(self._wait(key, seq or 0, [], [_Timer("", key, due_at, seq)]))
        self.scopes.passed(prefix, due_at)

    async def until(self, key: str, seq: int, due_at: datetime) -> None:
        """Rest until an instant that is in the journal already."""
        if due_at > self.clock():
            await self._rest(self._wait(key, seq, [], [_Timer("", key, due_at, None)]))

    async def wait(self, name: str, *, names: list[str], timeouts: dict[str, timedelta]) -> tuple[str, str | None]:
        """The first of: the next message of one of `names`, and the timers. (its name, payload as JSON text)."""
        prefix, key = self.meet(name)
        await self._repeat_updates(key)
        memo = await self.recall(key, "wait")
        if memo is not None:
            self.scopes.passed(prefix, memo.finished_at)
            return memo.detail or "", memo.result
        wait = self._wait(key, self.next_seq(), names, [])
        wait.timers = [self._timer(key, one, limit, wait.started_at) for one, limit in timeouts.items()]
        self.enter()
        try:
            served = await self._serve(wait)
        finally:
            self.leave()
        winner, payload, at = wait.answer.result() if served else await self._rest(wait)
        self.scopes.passed(prefix, at)
        return winner, payload

    def handle(self, name: str, handler: Handler) -> None:
        """Have updates of that name applied by `handler`, whenever the code waits."""
        self._handlers[name] = handler

    async def stop(self) -> None:
        """Come to rest here, for good."""
        await self._rest(self._wait("", 0, [], []))

    # For the activator

    @property
    def resting(self) -> bool:
        """Nothing is being done and something is being waited for."""
        return bool(self._waits) and self.idle and any(not wait.answer.done() for wait in self._waits)

    @property
    def takes_updates(self) -> bool:
        """The code has said how updates are answered."""
        return bool(self._handlers)

    def plan(self) -> tuple[datetime | None, list[str], list[runs.Timer]]:
        """For a suspension: the earliest instant waited for, the messages waited for, the timers not yet written."""
        timers = [timer for wait in self._open() for timer in wait.timers]
        names = {name for wait in self._open() for name in wait.names} | {UPDATE + name for name in self._handlers}
        new = [runs.Timer(one.key, one.seq, one.due_at) for one in timers if one.seq is not None]
        return min((one.due_at for one in timers), default=None), sorted(names), new

    async def apply_updates(self) -> None:
        """Take and apply every update that has come, while the code waits."""
        while self._handlers and self.resting and await self._update():
            pass

    async def serve(self) -> None:
        """Give every open wait what has come for it; for an activation that was woken while it was active."""
        await self.apply_updates()
        for wait in self._open():
            if wait.names:
                self.enter()
                try:
                    await self._serve(wait)
                finally:
                    self.leave()
        self._waits = self._open()

    # Inside

    def _open(self) -> list[_Wait]:
        return [wait for wait in self._waits if not wait.answer.done()]

    def _wait(self, key: str, seq: int, names: list[str], timers: list[_Timer]) -> _Wait:
        return _Wait(key, seq, names, timers, self.clock(), asyncio.get_running_loop().create_future())

    def _timer(self, key: str, name: str, limit: timedelta, started_at: datetime) -> _Timer:
        key = f"{key}.{name}"
        memo = self.run.steps.get(key)
        if memo is not None:
            return _Timer(name, key, _instant(memo), None)
        return _Timer(name, key, started_at + limit, self.next_seq())

    async def _serve(self, wait: _Wait) -> bool:
        """Whether the wait is decided: by a message, else by the first of its own timers that is due."""
        now = self.clock()
        try:
            await self.flush()
            taken = await self._consume(wait, now) if wait.names else None
        except DatabaseError as error:
            await self.lose(error)
            return False
        due = min((one for one in wait.timers if one.due_at <= now), key=lambda one: one.due_at, default=None)
        if taken is None and due is not None:
            taken = (TIMER + due.name, None)
            memo = StepMemo(
                key=wait.key, seq=wait.seq, kind="wait", started_at=wait.started_at, finished_at=now, detail=taken[0]
            )
            await self.write(memo)
        if taken is not None and not wait.answer.done():
            wait.answer.set_result((taken[0], taken[1], now))
        return taken is not None

    async def _consume(self, wait: _Wait, now: datetime) -> tuple[str, str | None] | None:
        return await self.around.ledger.consume(
            self.lease,
            names=wait.names,
            key=wait.key,
            seq=wait.seq,
            kind="wait",
            detail=None,
            started_at=wait.started_at,
            finished_at=now,
        )

    async def _rest(self, wait: _Wait) -> Answer:
        if self.closed:
            raise Unwound
        if _in_handler.get():
            raise UsageError(
                "The handler of an update cannot wait: it runs while the workflow waits. Let the code wait."
            )
        self._waits.append(wait)
        self.move()
        return await wait.answer

    # Updates

    async def _update(self) -> bool:
        """Take and apply one update, if there is one; it belongs to the wait that was begun last."""
        open_waits = [wait for wait in self._open() if wait.key]
        if not open_waits or self.pausing:
            return False
        key, now = f"update#{self._updates + 1}", self.clock()
        taken: tuple[str, str] | None = None
        self.enter()
        try:
            taken = await self.around.ledger.consume(
                self.lease,
                names=[UPDATE + name for name in self._handlers],
                key=key,
                seq=self.next_seq(),
                kind="update",
                detail=open_waits[-1].key,
                started_at=now,
                finished_at=now,
            )
            if taken is not None:
                self._updates += 1
                await self._hand_over(key, taken[1])
        except DatabaseError as error:
            await self.lose(error)
        finally:
            self.leave()
        return taken is not None

    async def _repeat_updates(self, key: str) -> None:
        """Apply again the updates that were applied while the code waited here."""
        for memo in self._applied.get(key, ()):
            await self._hand_over(memo.key, memo.result or "null")

    async def _hand_over(self, key: str, payload: str) -> None:
        handler = self._handlers.get(msgspec.json.decode(payload, type=_Update).name)
        if handler is None:
            return

        async def in_scope() -> None:
            self.scopes.enter("", key)
            _in_handler.set(True)
            await handler(key, payload)

        await asyncio.ensure_future(in_scope())


def _instant(memo: StepMemo) -> datetime:
    return msgspec.json.decode(memo.result or "null", type=datetime)
