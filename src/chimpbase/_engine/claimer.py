"""Leases ready jobs for the lanes of this process.

Lanes are only asked for when somebody said that there is work (a commit here, a doorbell, the outlook) or when the last
claim came back full, so idle queues cost nothing. One claim is in flight at a time and serves all lanes that want jobs,
but for those whose queue has limits: each of them has a gate of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter

from chimpbase._core.values import ClaimedJob, QueueId
from chimpbase._engine.attempt import Handling
from chimpbase._engine.claims import Claims
from chimpbase._engine.executor import Executor
from chimpbase._engine.finisher import Finisher
from chimpbase._engine.gate import Gate
from chimpbase._engine.lane import Lane
from chimpbase._engine.service import Service
from chimpbase._pg.db import Db
from chimpbase._store import cancels, jobs

_MOST_PENDING = 10_000
#: What handlers get to end when they are cancelled; one that takes longer is left behind, fenced out.
_UNWIND_S = 2.0


class Claimer(Service):
    """Keeps slots busy. `on_freed` hears of a queue with limits in which one may start, since one has ended here."""

    def __init__(
        self,
        db: Db,
        executor: Executor,
        finisher: Finisher,
        handlings: Iterable[Handling],
        *,
        make_claims: Callable[[Callable[[], None]], Claims],
        on_freed: Callable[[QueueId], None],
        random: Callable[[], float],
    ) -> None:
        super().__init__(random=random)
        self._db, self._finisher, self._on_freed = db, finisher, on_freed
        self._claims = claims = make_claims(self.wake)
        self._gates: dict[QueueId, Gate] = {}
        self._lanes = {
            one.queue: Lane(
                one,
                executor,
                on_hungry=partial(self._hungry, one.queue),
                on_suspect_ended=self._let_next_suspect,
                on_ended=claims.ended,
            )
            for one in handlings
        }

    @property
    def queues(self) -> Sequence[QueueId]:
        """The queues that this process works."""
        return list(self._lanes)

    @property
    def running(self) -> int:
        """Attempts in progress."""
        return sum(lane.running for lane in self._lanes.values())

    @property
    def claims(self) -> Claims:
        """What this process has leased."""
        return self._claims

    def lane(self, queue: QueueId) -> Lane | None:
        """The lane of a queue, if it is worked here."""
        return self._lanes.get(queue)

    def with_room(self) -> set[QueueId]:
        """The queues that have a free slot here, which will be filled."""
        return {queue for queue, lane in self._lanes.items() if lane.free > 0 and self._claims.open}

    def ready(self, queues: Iterable[QueueId], *, sweep: bool = False) -> None:
        """Somebody says that these queues may have ready jobs; those that nobody works here are ignored.

        With `sweep` they may stand anywhere in the queue, not only at its end.
        """
        for queue in queues:
            if lane := self._lanes.get(queue):
                lane.hot = True
                if sweep:
                    lane.sweep()
                self._hungry(queue)

    def gated(self, queues: Iterable[QueueId]) -> None:
        """These queues have limits: from now on their jobs come through a gate. There is no way back."""
        for queue in queues:
            lane = self._lanes.get(queue)
            if lane is not None and queue not in self._gates and self._claims.open:
                lane.gated = True
                # what waits for a slot counts as running
                self._claims.give_back(lane.empty())
                self._gates[queue] = gate = Gate(
                    self._db,
                    lane,
                    self._claims,
                    self._finisher,
                    on_freed=partial(self._on_freed, queue),
                    random=self._random,
                )
                lane.hot = True
                gate.start()

    async def stop(self, *, patience_s: float = 2.0) -> None:
        """Also stops the gates."""
        services = [super(), *self._gates.values()]
        await asyncio.gather(*(service.stop(patience_s=patience_s) for service in services))

    def cancel(self, asked: cancels.Cancelled) -> None:
        """End an attempt as cancelled, if it runs or waits for a slot here."""
        for lane in self._lanes.values():
            if (waiting := lane.cancel_job(asked.id, asked.attempt, reason=asked.reason)) is not None:
                self._finisher.cancel(asked)
                if waiting.suspect:
                    self._claims.suspect_ended()

    def hold_back(self, queues: Iterable[QueueId]) -> None:
        """These queues are paused: give back what waits for a slot. What runs goes on."""
        for queue in queues:
            if lane := self._lanes.get(queue):
                self._claims.give_back(lane.empty())

    async def tick(self) -> float | None:
        if not self._claims.open:
            return None
        await self._look_for_strays()
        for lane in self._lanes.values():
            self._claims.give_back(lane.stale())
            if lane.sweep_in() == 0:
                lane.hot = True
        self._look_again_at_what_waits()
        if self._finisher.pending > _MOST_PENDING:
            return 0.01
        asked = [
            (lane, demand)
            for lane in self._lanes.values()
            if lane.hot and not lane.gated and (demand := lane.demand()) is not None
        ]
        if not asked:
            return None
        for lane, _ in asked:
            # before the claim: a job that becomes ready during it sets this again
            lane.hot = False
        process, began_s = self._claims.process(), perf_counter()
        try:
            with self._claims.asking() as suspects:
                async with self._db.acquire() as connection:
                    demands = [demand for _, demand in asked]
                    claimed = await jobs.claim(connection, process=process, demands=demands, suspects=suspects)
        except BaseException:
            for lane, _ in asked:
                lane.hot = True
            raise
        self._claims.took(claimed)
        seconds = perf_counter() - began_s
        if not self._claims.open:
            self._claims.give_back(claimed)
            return None
        by_queue = _by_queue(claimed, [demand.queue for _, demand in asked])
        for lane, demand in asked:
            lane.take(by_queue[demand.queue], process=process, asked=demand, seconds=seconds)
        self._look_again_at_what_waits()
        sweeps = [due_s for lane in self._lanes.values() if (due_s := lane.sweep_in()) is not None]
        if sweeps:
            self.wake_in(min(sweeps))
        return 0 if any(lane.hot and not lane.gated and lane.demand() for lane in self._lanes.values()) else None

    def close(self) -> None:
        """Claim no more, and give back what waits for a slot."""
        self._claims.open = False
        for lane in self._lanes.values():
            self._claims.give_back(lane.empty())

    async def drain(self, *, grace_s: float) -> None:
        """After `close`: wait for running attempts, then cancel those still running, which gives their jobs back."""
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.gather(*(lane.quiet() for lane in self._lanes.values()))
        except TimeoutError:
            self._log.info("%d attempts run longer than the grace; they are given back", self.running)
        await self._cancel()

    async def abandon(self) -> None:
        """Cancel everything that runs here: its lease is gone."""
        for lane in self._lanes.values():
            self._claims.forget(lane.empty())
        self._claims.suspect_ended()
        await self._cancel()

    def _look_again_at_what_waits(self) -> None:
        # also when nothing is claimed: it may be stale by then
        if any(lane.held > lane.running for lane in self._lanes.values()):
            self.wake_in(1.0)

    def _hungry(self, queue: QueueId) -> None:
        self._gates.get(queue, self).wake()

    def _let_next_suspect(self) -> None:
        self._claims.suspect_ended()
        # it may stand before what has been claimed meanwhile
        self.ready(self._lanes, sweep=True)

    async def _look_for_strays(self) -> None:
        if strays := await self._claims.look_for_strays():
            self._log.warning("gave back %d jobs that this process held and did not run", strays)
            self.ready(self._lanes, sweep=True)
        if (in_doubt_s := self._claims.in_doubt_s) is not None:
            self.wake_in(in_doubt_s)

    async def _cancel(self) -> None:
        slots = [slot for lane in self._lanes.values() for slot in lane.cancel()]
        if slots:
            await asyncio.wait(slots, timeout=_UNWIND_S)


def _by_queue(claimed: list[ClaimedJob], queues: Sequence[QueueId]) -> Mapping[QueueId, list[ClaimedJob]]:
    if len(queues) == 1:
        return {queues[0]: claimed}
    found: dict[QueueId, list[ClaimedJob]] = {queue: [] for queue in queues}
    for job in claimed:
        found[job.queue].append(job)
    return found
