"""Runs a consumer's batches: takes a slot that is behind, has its handler called, and decides what a failure leads to.

The position moves in the handler's own transaction, under the fence of the slot's lease, so what a batch did and how
far the consumer has come are one commit. The attempt was counted in a commit before: a batch that kills its process
counts, too. After a failure the batch is halved until the entry that cannot be handled is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from chimpbase._core.errors import (
    AttemptTimeout,
    DatabaseError,
    EntriesDropped,
    LeaseLost,
    OutcomeUnknown,
    PayloadError,
)
from chimpbase._core.positions import Position
from chimpbase._core.retry import Retry
from chimpbase._core.text import name_and_message
from chimpbase._core.values import ProcessId, StoredEntry
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import consumers
from chimpbase._store.consumers import Lease

_FREE_ATTEMPTS_AGAIN = timedelta(seconds=0.2)
_END_AGAIN = timedelta(seconds=1)


@dataclass(slots=True, kw_only=True)
class Batch:
    """What is to be consumed: up to `limit` entries after `position`. Who reads them notes the first and its place."""

    lease: Lease
    position: Position
    limit: int
    read: int = 0
    first: tuple[StoredEntry, Position] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Consuming:
    """How this process works a consumer; `consume` handles a batch and moves its slot, or raises."""

    id: int
    stream: int
    name: str
    batch: int
    lanes: int
    retry: Retry
    stops: bool
    timeout: timedelta | None
    consume: Callable[[Batch], Awaitable[None]] = field(repr=False)


class Consumer(Service):
    """One consumer in this process."""

    def __init__(
        self, db: Db, consuming: Consuming, *, process: Callable[[], ProcessId], random: Callable[[], float]
    ) -> None:
        super().__init__(random=random)
        self._db, self._consuming, self._process = db, consuming, process
        self._running: dict[int, asyncio.Task[None]] = {}

    @property
    def id(self) -> int:
        return self._consuming.id

    @property
    def stream(self) -> int:
        return self._consuming.stream

    async def tick(self) -> float | None:
        while len(self._running) < self._consuming.lanes and not self._stopping:
            batch = await self.take()
            if batch is None:
                return None
            slot = batch.lease.slot
            task = asyncio.create_task(self._run(batch), name=f"consumer {self._consuming.name}/{slot}")
            self._running[slot] = task
            task.add_done_callback(lambda _, slot=slot: self._ended(slot))
        return None

    async def take(self) -> Batch | None:
        """A batch to consume, its attempt counted; None when every free slot has read everything."""
        one = self._consuming
        async with self._db.acquire() as connection:
            taken = await consumers.take(
                connection, consumer=one.id, stream=one.stream, process=self._process(), running=list(self._running)
            )
        if taken is None:
            return None
        lease, position = taken
        return Batch(lease=lease, position=position, limit=max(1, one.batch >> (lease.attempt - 1)))

    async def run(self, batch: Batch) -> Exception | None:
        """Consume a batch to its settled end; the error it failed with."""
        one = self._consuming
        try:
            limit = asyncio.timeout(one.timeout.total_seconds() if one.timeout else None)
            try:
                async with limit:
                    await one.consume(batch)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise AttemptTimeout(f"a batch of consumer {one.name!r} took longer than its timeout") from error
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(batch))
            raise
        except Exception as error:
            await self._failed(batch, error)
            return error
        return None

    async def drain(self, *, grace_s: float) -> None:
        """Let the batches that run end, then cancel them: they are given back and not charged."""
        tasks = set(self._running.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2.0)

    def abandon(self) -> None:
        """The lease of this process is lost: cancel what runs under it."""
        for task in self._running.values():
            task.cancel()

    async def _run(self, batch: Batch) -> None:
        try:
            await self.run(batch)
        except (LeaseLost, DatabaseError) as error:
            # its end could not be written: it was redriven or rewound meanwhile, or what it would write is refused
            text = name_and_message(error, limit_bytes=2000)
            self._log.warning("%s/%s: %s", self._consuming.name, batch.lease.slot, text)
            await self._put_off(batch, _END_AGAIN, charged=True, error=text)
            self.wake_in(_END_AGAIN.total_seconds() + 0.001)

    def _ended(self, slot: int) -> None:
        self._running.pop(slot, None)
        self.wake()

    async def _give_back(self, batch: Batch) -> None:
        await self._put_off(batch, timedelta(0), charged=False, error=None)

    async def _failed(self, batch: Batch, error: Exception) -> None:
        one, text = self._consuming, name_and_message(error, limit_bytes=2000)
        alone = batch.read <= 1
        steps = one.batch.bit_length() - 1
        charged = batch.lease.attempt
        verdict, delay = "again", timedelta(0)
        if isinstance(error, LeaseLost):
            self._log.warning("%s/%s: %s", one.name, batch.lease.slot, text)
            return
        if isinstance(error, OutcomeUnknown) or (isinstance(error, DatabaseError) and error.transient):
            await self._put_off(batch, _FREE_ATTEMPTS_AGAIN, charged=False, error=text)
        elif isinstance(error, EntriesDropped):
            verdict = "stopped until it is rewound"
            await self._put_off(batch, timedelta(0), charged=True, error=text, blocked=True)
        elif alone and (
            charged >= one.retry.max_attempts + steps or not one.retry.retries(error) or isinstance(error, PayloadError)
        ):
            verdict = await self._give_up(batch, text)
        else:
            delay = one.retry.delay(max(1, charged - steps), random=self._random) if alone else timedelta(0)
            await self._put_off(batch, delay, charged=True, error=text)
        self._log.warning("consumer %s/%s failed: %s; %s", one.name, batch.lease.slot, text, verdict, exc_info=error)
        self.wake_in(delay.total_seconds() + 0.001)

    async def _give_up(self, batch: Batch, error: str) -> str:
        if self._consuming.stops or batch.first is None:
            await self._put_off(batch, timedelta(0), charged=True, error=error, blocked=True)
            return "stopped until it is resumed or rewound"
        entry, position = batch.first
        async with self._db.transaction() as connection:
            await consumers.bury(connection, lease=batch.lease, entry=entry, error=error)
            if not await consumers.move(connection, lease=batch.lease, position=position):
                raise LeaseLost(f"consumer {self._consuming.name!r} lost slot {batch.lease.slot}")
        return f"entry {entry.id} is a dead letter of it"

    async def _put_off(
        self, batch: Batch, delay: timedelta, *, charged: bool, error: str | None, blocked: bool = False
    ) -> None:
        try:
            async with self._db.acquire() as connection:
                await consumers.put_off(
                    connection, lease=batch.lease, delay=delay, charged=charged, blocked=blocked, error=error
                )
        except DatabaseError as failure:
            # the slot is still held, but not among those that run: this process takes it again, or its heirs do
            self._log.warning("slot %s of %s not given back: %s", batch.lease.slot, self._consuming.name, failure)
