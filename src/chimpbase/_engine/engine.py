"""The engine: every loop of a process, started in order and stopped in reverse.

Start: register the process, beat, then claim. Stop: claim no more, let attempts end within the grace, give back what is
left, write the last ends, stop beating, remove the process. The heartbeat outlives the last job, always.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import JobId, NewJob, ProcessId, QueueId, RunEnd
from chimpbase._engine.activator import Activator
from chimpbase._engine.archivist import Archivist
from chimpbase._engine.attempt import Handling
from chimpbase._engine.births import Births
from chimpbase._engine.broadcasts import BroadcastKeeper
from chimpbase._engine.canceller import Canceller
from chimpbase._engine.claimer import Claimer
from chimpbase._engine.claims import Claims
from chimpbase._engine.consumer import Consuming
from chimpbase._engine.consumer_group import ConsumerGroup, StreamKeeper
from chimpbase._engine.event_keeper import EventKeeper
from chimpbase._engine.executor import Executor
from chimpbase._engine.finisher import Finisher
from chimpbase._engine.heart import Heart
from chimpbase._engine.horizon import Horizon
from chimpbase._engine.host import is_gone, this_host
from chimpbase._engine.keepers import Lookout, Promoter, Pruner, Rescuer
from chimpbase._engine.run_births import RunBirths
from chimpbase._engine.scheduler import Scheduler
from chimpbase._engine.service import Service
from chimpbase._engine.striker import Striker
from chimpbase._engine.sweeper import Sweeper
from chimpbase._engine.tails import Tails
from chimpbase._pg.bell import Bell
from chimpbase._pg.db import Db
from chimpbase._pg.listener import Listener
from chimpbase._pg.losses import through_losses
from chimpbase._store import processes

CHANNEL = "chimpbase"
_LOOK = "look"
_NEWS = "news"
_log = logging.getLogger("chimpbase.engine")


def _nothing() -> None:
    """Nobody here wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this process is to the others."""

    app: str
    pid: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The engine's times: how long a lease lasts, how often an idle process looks, how long a stop may take,
    how long dead letters and ended runs are kept.
    """

    lease: timedelta
    poll: timedelta
    grace: timedelta
    dead_retention: timedelta = timedelta(days=30)
    run_retention: timedelta = timedelta(days=30)
    event_retention: timedelta = timedelta(days=30)


class Engine:
    """One process's share of the work.

    `db` is the engine's own pool, whose plans are pinned; `open_db(size)` opens another for the heart. `listener` and
    `bell` are None when notifications are off: everything then works by polling.
    """

    def __init__(
        self,
        db: Db,
        *,
        identity: Identity,
        pace: Pace,
        open_heart_db: Callable[[], Awaitable[Db]],
        make_listener: Callable[[Callable[[str], None], Callable[[], None]], Listener] | None,
        bell: Bell | None,
        random: Callable[[], float],
    ) -> None:
        self._db, self._identity, self._pace, self._random = db, identity, pace, random
        self._open_heart_db, self._make_listener, self._bell = open_heart_db, make_listener, bell
        self._process: ProcessId | None = None
        self._heart: Heart | None = None
        self._claimer: Claimer | None = None
        self._births: Births | None = None
        self._lookout: Lookout | None = None
        self._listener: Listener | None = None
        self._services: list[Service] = []
        self._recovery: asyncio.Task[None] | None = None
        self._ended: set[Callable[[str, RunEnd | None], None]] = set()
        self.tails = Tails()
        #: Called when something may have been broadcast.
        self.on_broadcast: Callable[[], None] = _nothing
        self._group: ConsumerGroup | None = None
        self._promoter = Promoter(db, on_ready=self.ready, random=random)
        self._holdings: set[tuple[JobId, int]] = set()
        self._finisher = Finisher(db, process=self._current, holdings=self._holdings, random=random)
        self.activator = Activator(
            db,
            random=random,
            on_later=self.later,
            on_ready=self.ready,
            on_ended=self._tell_ended,
            watch_s=pace.poll.total_seconds(),
        )
        self.run_births = RunBirths(self.activator)

    # What the application tells the engine

    def ready(self, queues: Iterable[QueueId]) -> None:
        """These queues may have ready jobs, committed by now: wake who works them, here or elsewhere."""
        wanted = set(queues)
        if not wanted:
            return
        if self._claimer is not None:
            self._claimer.ready(wanted)
            wanted -= self._claimer.with_room()
        if wanted and self._bell is not None:
            for queue in wanted:
                self._bell.ring(str(queue))

    async def enqueue(self, db: Db, new: Sequence[NewJob]) -> list[JobId] | None:
        """Store jobs, in a commit of their own on `db`, that run in this process at once.

        None, with nothing done, when there are no free slots for all of them or others wait before them.
        """
        if self._births is None or (stored := await self._births.enqueue(db, new)) is None:
            return None
        ids, rest = stored
        self.ready(rest)
        return ids

    def appended(self, streams: Iterable[int]) -> None:
        """These streams have new entries, committed by now: wake who reads them, here or elsewhere."""
        wanted = set(streams)
        self.tails.appended(wanted)
        if self._group is not None:
            self._group.appended(wanted)
        if self._bell is not None:
            for stream in wanted:
                self._bell.ring(f"s{stream}")

    def announced(self) -> None:
        """Something was broadcast, and is committed by now: tell everybody who hears broadcasts."""
        self.on_broadcast()
        if self._bell is not None:
            self._bell.ring(_NEWS)

    def later(self, seconds: float) -> None:
        """A job falls due in that time."""
        if self._services:
            self._promoter.wake_in(max(seconds, 0.0))

    def look(self) -> None:
        """What processes should do was changed, by a commit: a job is to end, a queue was paused. Tell them all."""
        self._look_here()
        if self._bell is not None:
            self._bell.ring(_LOOK)

    def disturb(self, run: int, *, cancel: bool, reason: str | None = None) -> None:
        """A run is to be cancelled or paused, as is committed by now: if it is active somewhere, its code hears it."""
        self.activator.disturb(run, cancel=cancel, reason=reason)
        if self._bell is not None:
            self._bell.ring(f"{'cancel' if cancel else 'pause'}:{run}")

    def watch_ended(self, callback: Callable[[str, RunEnd | None], None]) -> None:
        """Hear of every run that ends in this process, by its id."""
        self._ended.add(callback)

    def _await_jobs(self, awaited: bool) -> None:
        """Jobs wait for others to end, somewhere: whatever ends here may make one due."""
        self._finisher.watch.on_settled = self._promoter.wake if awaited else None

    def watch_job(self, job: JobId) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when an attempt of that job is settled in this process."""
        return self._finisher.watch.watch(job)

    @property
    def running(self) -> int:
        """Attempts in progress in this process."""
        return self._claimer.running if self._claimer else 0

    @property
    def process(self) -> ProcessId | None:
        """This process's id in the database while it works; a new one after its lease was lost."""
        return self._process

    # Life

    async def start(self, handlings: Sequence[Handling], consumers: Sequence[Consuming] = ()) -> None:
        """Begin to work these queues."""
        queues = [handling.queue for handling in handlings]
        await through_losses(lambda: self._join(queues), what="joining", random=self._random)
        executor = Executor(self._finisher, random=self._random, on_later=self.later)
        poll_s, lease_s = self._pace.poll.total_seconds(), self._pace.lease.total_seconds()
        self._claimer = claimer = Claimer(
            self._db,
            executor,
            self._finisher,
            handlings,
            make_claims=lambda on_doubt: Claims(
                self._db,
                self._finisher,
                process=self._current,
                holdings=self._holdings,
                doubt_s=lease_s,
                on_doubt=on_doubt,
            ),
            on_freed=lambda queue: self.ready([queue]),
            random=self._random,
        )
        self._births, self.run_births = Births(claimer), RunBirths(self.activator, claimer)
        scheduler = Scheduler(self._db, queues=queues, on_ready=self.ready, on_later=self.later, random=self._random)
        rescuer = Rescuer(
            self._db,
            process=self._current,
            on_ready=self.ready,
            is_gone=is_gone,
            every_s=lease_s / 3,
            random=self._random,
        )
        group = self._group = ConsumerGroup(self._db, consumers, process=self._current, random=self._random)
        canceller = Canceller(
            self._db, process=self._current, on_asked=claimer.cancel, on_passed_on=self.look, random=self._random
        )
        striker = Striker(self._db, on_freed=self.later, random=self._random)
        lookout = self._lookout = Lookout(
            self._db,
            queues=queues,
            poll_s=poll_s,
            on_ready=lambda queues: claimer.ready(queues, sweep=True),
            on_gated=claimer.gated,
            on_paused=claimer.hold_back,
            promoter=self._promoter,
            scheduler=scheduler,
            rescuer=rescuer,
            on_awaited=self._await_jobs,
            canceller=canceller,
            striker=striker,
            consumers=group.ids,
            on_behind=group.behind,
            random=self._random,
        )
        keepers = [self._promoter, scheduler, rescuer, canceller, striker, *await self._housekeepers()]
        self._services = [*keepers, claimer, *group.services, lookout]
        for service in self._services:
            service.start()
        self.listen()

    def listen(self) -> None:
        """Hear what other processes announce. A start does so; without one it is for those who read streams."""
        if self._make_listener is not None and self._listener is None:
            self._listener = self._make_listener(self._hear, self._look_again)
            self._listener.start()

    async def turn_deaf(self) -> None:
        """Hear nothing more. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()

    async def _housekeepers(self) -> list[Service]:
        """Those that keep the database small, and watch what keeps it large."""
        pruner = Pruner(self._db, days_ahead=7, every_s=600, dead_age=self._pace.dead_retention, random=self._random)
        sweeper = Sweeper(self._db, every_s=60, clock=asyncio.get_running_loop().time, random=self._random)
        horizon = Horizon(self._db, age=timedelta(minutes=1), every_s=60, random=self._random)
        archivist = Archivist(self._db, age=self._pace.run_retention, every_s=600, random=self._random)
        # the day's history must be there before any job ends: one that ends while it is attached is refused by it
        await through_losses(pruner.tick, what="making days", random=self._random)
        days = StreamKeeper(self._db, days_ahead=3, every_s=600, random=self._random)
        events = EventKeeper(self._db, age=self._pace.event_retention, every_s=600, random=self._random)
        broadcasts = BroadcastKeeper(self._db, random=self._random)
        return [pruner, sweeper, horizon, days, events, broadcasts, archivist]

    async def stop(self, *, grace: timedelta | None = None) -> None:
        """Stop cleanly; jobs still running after the grace go back to their queues without an attempt charged."""
        if self._recovery is not None:
            self._recovery.cancel()
        if self._claimer is not None:
            self._claimer.close()
        await self.turn_deaf()
        await asyncio.gather(*(service.stop() for service in self._services))
        if self._claimer is not None:
            await self._claimer.drain(grace_s=(self._pace.grace if grace is None else grace).total_seconds())
        if self._group is not None:
            await self._group.drain(grace_s=(self._pace.grace if grace is None else grace).total_seconds())
        await self.activator.close()
        await self._finisher.drain(patience_s=2.0)
        if self._heart is not None:
            await self._heart.stop()
        await self._leave()

    async def _join(self, queues: Sequence[QueueId]) -> None:
        identity = self._identity
        async with self._db.acquire() as connection:
            process = await processes.register(
                connection,
                app=identity.app,
                host=this_host(),
                pid=identity.pid,
                version=identity.version,
                lease=self._pace.lease,
                queues=queues,
            )
        self._process = process
        self._heart = Heart(
            self._open_heart_db, process=process, lease=self._pace.lease, on_lost=lambda: self._lost(process)
        )
        self._heart.start()

    async def _leave(self) -> None:
        if self._process is None:
            return
        try:
            async with self._db.transaction() as connection:
                await processes.hold(connection, process=self._process)
                if not await processes.remove(connection, processes=[self._process]):
                    # a job could not be given back in time: others take it at once
                    await processes.expire(connection, gone=[self._process])
        except DatabaseError as error:
            # its lease runs out by itself
            _log.warning("could not say goodbye: %s", error)

    def _lost(self, process: ProcessId) -> None:
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._rejoin(process), name="rejoin")

    async def _rejoin(self, process: ProcessId) -> None:
        """After the lease was lost: stop what runs under it, then come back as a new process."""
        claimer = self._claimer
        if claimer is None or self._process != process:
            return
        _log.warning("lease lost: process %s was declared dead; its attempts are cancelled", process)
        pause_s = 0.1
        while True:
            try:
                await self._join(claimer.queues)
                break
            except DatabaseError:
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, pause_s * 2)
        if self._group is not None:
            self._group.abandon()
        await claimer.abandon()
        claimer.ready(claimer.queues)

    def _current(self) -> ProcessId:
        assert self._process is not None  # nothing claims or settles before `_join`
        return self._process

    def _hear(self, payload: str) -> None:
        words = payload.split(",")
        if _LOOK in words:
            self._look_here()
        if _NEWS in words:
            self.on_broadcast()
        if self._claimer is not None:
            self._claimer.ready(QueueId(int(queue)) for queue in words if queue.isdigit())
        streams = {int(word[1:]) for word in words if word[:1] == "s" and word[1:].isdigit()}
        self.tails.appended(streams)
        if self._group is not None:
            self._group.appended(streams)
        for verb, _, run in (word.partition(":") for word in words):
            if verb in ("cancel", "pause") and run.isdigit():
                self.activator.disturb(int(run), cancel=verb == "cancel")

    def _look_again(self) -> None:
        self._look_here()
        self.on_broadcast()

    def _look_here(self) -> None:
        if self._lookout is not None:
            self._lookout.wake()

    def _tell_ended(self, run: str, end: RunEnd | None) -> None:
        for callback in self._ended:
            callback(run, end)
