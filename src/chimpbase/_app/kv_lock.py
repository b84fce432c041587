"""Locks on the database, for what must not happen twice at once: `async with ctx.kv.lock("nightly")`.

A lock is a lease: it is renewed while it is held, and runs out when its holder dies. Each holder has a fence, a number
greater than that of every holder before. Invariant: a transaction that took a lock commits only while it is still its
own, and the lock is let go only after that commit. Elsewhere a holder that was cut off may not know that it lost the
lock; hand the fence to what you guard, and let it refuse smaller ones.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from random import Random
from types import TracebackType

from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.errors import Conflict, DatabaseError, LockLost
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import kv
from chimpbase._store.kv import NewPair

_log = logging.getLogger("chimpbase.kv")
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 0.5


class Lock:
    """A lock that is held."""

    def __init__(self, name: str, *, fence: int) -> None:
        self.name = name
        self.fence = fence
        self._lost = False

    def __repr__(self) -> str:
        return f"Lock({self.name!r}, fence={self.fence}{', lost' if self._lost else ''})"

    @property
    def lost(self) -> bool:
        """Whether it is known to be somebody else's, or free, by now."""
        return self._lost

    def check(self) -> None:
        """Raise `LockLost` when it is known to be lost. A plain function asks this between its steps.

        Raises:
            LockLost: it is.
        """
        if self._lost:
            raise LockLost(self.name, self.fence)

    def lose(self) -> None:
        """Take note that it is lost."""
        self._lost = True


class Holding:
    """One taking of a lock: waits for it, keeps it, lets go of it."""

    def __init__(
        self, db: Db, *, namespace: str, name: str, ttl: timedelta, wait: timedelta | None, random: Random
    ) -> None:
        self._db, self._namespace, self.name = db, namespace, name
        self._ttl, self._wait, self._random = ttl, wait, random
        self._lock: Lock | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._guard: asyncio.Timeout | None = None

    async def take(self) -> Lock:
        """Wait for the lock and keep it from now on.

        Raises:
            Conflict: somebody else held it all the time.
        """
        clock = asyncio.get_running_loop().time
        patience = None if self._wait is None else clock() + self._wait.total_seconds()
        pause_s = _FIRST_LOOK_S
        while True:
            asked = clock()
            fence = await kv.add(self._db, cached=False, pair=NewPair(self._namespace, self.name, "true", self._ttl))
            if fence is not None:
                break
            left = None if patience is None else patience - clock()
            if left is not None and left <= 0:
                raise Conflict(f"Lock {self.name!r} is held by somebody else. Wait longer, or do without.")
            pause_s = min(pause_s, _LONGEST_LOOK_S)
            await asyncio.sleep(min(pause_s * (0.5 + self._random.random()), left or pause_s))
            pause_s *= 1.5
        self._lock = lock = Lock(self.name, fence=fence)
        self._keeper = asyncio.create_task(self._keep(lock, asked + self._ttl.total_seconds()), name="lock keeper")
        return lock

    @property
    def lock(self) -> Lock | None:
        """What was taken, if anything was."""
        return self._lock

    @property
    def place(self) -> tuple[str, str]:
        """What is locked."""
        return self._namespace, self.name

    def interrupt(self, guard: asyncio.Timeout | None) -> None:
        """End this block, and no other, when the lock is lost."""
        self._guard = guard

    async def confirm(self, connection: Connection | None) -> None:
        """One of the last statements of a transaction: it may commit only while the lock is its own.

        Raises:
            LockLost: it is not.
        """
        assert self._lock is not None
        lock = self._lock
        if connection is not None and not await kv.confirm(
            connection, namespace=self._namespace, key=self.name, fence=lock.fence
        ):
            lock.lose()
        lock.check()

    async def let_go(self) -> None:
        """Stop keeping it, and leave it to others. Never raises `DatabaseError`: what cannot be told runs out."""
        keeper, self._keeper = self._keeper, None
        if keeper is None or self._lock is None:
            return
        keeper.cancel()
        await asyncio.wait({keeper})
        if self._lock.lost:
            return
        try:
            await kv.release(self._db, namespace=self._namespace, key=self.name, fence=self._lock.fence)
        except DatabaseError as error:
            _log.warning("lock %r could not be let go and will run out: %s", self.name, error)

    async def _keep(self, lock: Lock, until: float) -> None:
        """Renew three times in the life of a lease; the lock is lost when it is another's, or the lease has run out."""
        clock = asyncio.get_running_loop().time
        every_s = self._ttl.total_seconds() / 3
        pause_s = every_s
        while True:
            await asyncio.sleep(max(0.0, min(pause_s, until - clock())))
            asked = clock()
            if asked >= until:
                break
            try:
                async with asyncio.timeout_at(until):
                    ours = await kv.renew(
                        self._db, namespace=self._namespace, key=self.name, fence=lock.fence, ttl=self._ttl
                    )
            except (DatabaseError, TimeoutError) as error:
                _log.warning("lock %r could not be renewed; trying again: %s", self.name, error)
                pause_s = every_s / 5
                continue
            if not ours:
                break
            until, pause_s = asked + self._ttl.total_seconds(), every_s
        lock.lose()
        _log.warning("lock %r was lost: its lease of %s ran out", self.name, self._ttl)
        if self._guard is not None:
            self._guard.reschedule(clock())


class LockBlock:
    """`async with ctx.kv.lock(...) as lock:`. Losing the lock cancels the block and raises `LockLost` from it."""

    def __init__(self, holding: Holding, frame: Frame) -> None:
        self._holding, self._frame = holding, frame
        self._guard = asyncio.timeout(None)
        self._lock: Lock | None = None

    async def __aenter__(self) -> Lock:
        self._lock = await enter(self._holding, self._frame)
        await self._guard.__aenter__()
        self._holding.interrupt(self._guard)
        return self._lock

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        try:
            self._holding.interrupt(None)
            await self._guard.__aexit__(kind, error, trace)
        except TimeoutError as late:
            if self._guard.expired():
                raise LockLost(self._lock.name, self._lock.fence) from late
            raise
        finally:
            await leave(self._holding, self._frame)
        if error is None:
            self._lock.check()


class SyncLockBlock:
    """The blocking face of `LockBlock`. A thread cannot be cancelled: ask `lock.check()` in what takes long."""

    def __init__(self, holding: Holding, frame: Frame, wait: Waiter) -> None:
        self._holding, self._frame, self._wait = holding, frame, wait
        self._lock: Lock | None = None

    def __enter__(self) -> Lock:
        self._lock = self._wait(enter(self._holding, self._frame))
        assert self._lock is not None
        return self._lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(leave(self._holding, self._frame))
        if error is None and self._lock is not None:
            self._lock.check()


async def enter(holding: Holding, frame: Frame) -> Lock:
    """Take the lock; in a transaction for as long as that lasts, and once, however often it is asked for."""
    unit = frame.unit
    held = unit.holdings.get(holding.place)
    if isinstance(held, Holding) and held.lock is not None:
        return held.lock
    lock = await holding.take()
    if unit.transactional:
        unit.holdings[holding.place] = holding
    return lock


async def leave(holding: Holding, frame: Frame) -> None:
    """The end of the block: the lock goes, unless a transaction holds it."""
    holding.interrupt(None)
    if not frame.unit.transactional:
        await asyncio.shield(holding.let_go())
