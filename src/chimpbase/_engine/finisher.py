"""Settles attempts in batches: done, later, dead, given back, cancelled.

Each kind of end has a lane of its own. A lane takes all that is waiting, writes it in one statement, and takes what
came meanwhile: no timer, so an end is written at once when nothing else is, and under load the batches form alone.

Nobody waits for an end. One that cannot be written because the database is away stays in its lane until it can; its job
stays leased, so nobody else runs it meanwhile. One whose lease was lost is reported, and changed nothing. An attempt
that carries something which the database refuses has failed, as if its handler had stored it itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import attrgetter
from time import monotonic
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from chimpbase._core.errors import DatabaseError, OutcomeUnknown
from chimpbase._core.values import ClaimedJob, JobId, ProcessId
from chimpbase._engine.attempt import Carried
from chimpbase._engine.job_watch import JobWatch
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import cancels, carried
from chimpbase._store import jobs as store

_BATCH = 1000
_BATCH_WITH = 500  # of what carries: some 8,000 jobs and 8 MB at most
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_log = logging.getLogger("chimpbase.job")
_fence, _id, _attempt, _result = (
    attrgetter("id", "attempt"),
    attrgetter("id"),
    attrgetter("attempt"),
    attrgetter("result"),
)


class _End(Protocol):
    @property
    def id(self) -> JobId: ...
    @property
    def attempt(self) -> int: ...


E = TypeVar("E", bound=_End)


class Carrying(NamedTuple):
    """The end of an attempt together with what it carries; `result` is JSON text. `refused` is told why it cannot."""

    id: JobId
    attempt: int
    result: str | None
    carried: Carried
    refused: Callable[[DatabaseError], None]


class _Lane(Generic[E]):
    """Ends of one kind on their way to the database."""

    def __init__(
        self,
        db: Db,
        settle: Callable[..., Awaitable[set[JobId]]],
        *,
        process: Callable[[], ProcessId],
        random: Callable[[], float],
        on_settled: Callable[[Sequence[E]], None],
        on_refused: Callable[[E, DatabaseError], None] | None = None,
        batch: int = _BATCH,
    ) -> None:
        """`on_refused` is given an end that the database refuses for its own sake; else it is tried again and again."""
        self._db, self._settle, self._process, self._random = db, settle, process, random
        self._on_settled, self._on_refused, self._batch = on_settled, on_refused, batch
        self._waiting: deque[E] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writes = False
        self._alone: set[asyncio.Task[None]] = set()

    def push(self, end: E) -> None:
        self._waiting.append(end)
        if not self._writes:
            self._writes = True
            # it begins in the next turn of the loop: all that ends in this turn is in its first batch
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def drained(self) -> None:
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})
        for task in self._alone:  # they had their chances; their jobs run again when the lease is gone
            task.cancel()

    async def _run(self) -> None:
        try:
            while waiting := self._waiting:
                # those that an earlier life of this process held are held no more, whatever process asks: (id, attempt)
                # is never given twice
                process = self._process()
                ends = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
                ends.sort(key=_id)
                aside: list[tuple[E, DatabaseError]] = []
                held = await self._persist(process, ends, aside)
                if aside:
                    self._set_aside(process, aside)
                    bad = {_fence(end) for end, _ in aside}
                    ends = [end for end in ends if _fence(end) not in bad]
                self._conclude(ends, held)
        finally:
            self._writes = False

    def _set_aside(self, process: ProcessId, aside: Sequence[tuple[E, DatabaseError]]) -> None:
        for end, error in aside:
            if self._on_refused is not None:
                self._on_refused(end, error)
                continue
            _log_refusal(end, error)
            task = asyncio.get_running_loop().create_task(self._settle_alone(process, end))
            self._alone.add(task)
            task.add_done_callback(self._alone.discard)

    def _conclude(self, ends: Sequence[E], held: set[JobId]) -> None:
        self._on_settled(ends)
        if len(held) == len(ends):
            return
        for end in ends:
            if end.id not in held:
                _log.warning("lease lost: job %d ended after its lease", end.id, extra={"data": {"job": end.id}})

    async def _persist(self, process: ProcessId, ends: list[E], aside: list[tuple[E, DatabaseError]]) -> set[JobId]:
        """The ids that were still held. An end that the database refuses for its own sake goes `aside`."""
        pause_s = _FIRST_PAUSE_S
        while self._process() == process:
            try:
                connection: Connection
                async with self._db.acquire() as connection:
                    return await self._settle(connection, process=process, jobs=ends)
            except DatabaseError as error:
                # an unknown outcome may be asked for again: the fence answers "not held" to what was done already
                if not error.transient and not isinstance(error, OutcomeUnknown):
                    if len(ends) == 1:
                        aside.append((ends[0], error))
                        return set()
                    middle = len(ends) // 2  # halving finds the bad one among many
                    first = await self._persist(process, ends[:middle], aside)
                    return first | await self._persist(process, ends[middle:], aside)
            await asyncio.sleep(pause_s * (0.5 + self._random()))
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
        return set()

    async def _settle_alone(self, process: ProcessId, end: E) -> None:
        """Try again and again, beside the lane: nobody else may run the job while this process holds it."""
        pause_s = _LONGEST_PAUSE_S
        while self._process() == process:
            await asyncio.sleep(pause_s)
            pause_s = min(60.0, pause_s * 2)
            aside: list[tuple[E, DatabaseError]] = []
            held = await self._persist(process, [end], aside)
            if not aside:
                return self._conclude([end], held)
            _log_refusal(*aside[0])
        return self._conclude([end], set())


class Finisher:
    """Writes the ends of attempts that did not write their own."""

    def __init__(
        self,
        db: Db,
        *,
        process: Callable[[], ProcessId],
        holdings: set[tuple[JobId, int]],
        random: Callable[[], float],
    ) -> None:
        self._holdings = holdings
        self._watcher: Callable[[Iterable[tuple[JobId, int]]], None] | None = None

        def lane(settle: Callable[..., Awaitable[set[JobId]]]) -> _Lane[Any]:
            return _Lane(db, settle, process=process, random=random, on_settled=self._settled)

        self._finish, self._put_off = lane(_finish), lane(store.put_off)
        self._dead_letter, self._give_back = lane(store.dead_letter), lane(store.give_back)
        self._cancel = lane(cancels.finish)
        self._finish_with: _Lane[Carrying] = _Lane(
            db,
            _finish_with,
            process=process,
            random=random,
            on_settled=self._settled_with,
            on_refused=self._refused,
            batch=_BATCH_WITH,
        )
        self._pending = 0
        self.watch = JobWatch()

    def watch_settled(self, watcher: Callable[[Iterable[tuple[JobId, int]]], None]) -> None:
        """Hear of each (id, attempt) that is held no longer, once that is committed."""
        self._watcher = watcher

    @property
    def pending(self) -> int:
        """Ends that are not in the database yet."""
        return self._pending

    def settled(self, job: ClaimedJob) -> None:
        """The handler's own transaction has written the end of a job."""
        self._holdings.discard((job.id, job.attempt))
        if self.watch.on_settled is not None:
            self.watch.on_settled()
        if self.watch.events:
            self.watch.tell(job.id)

    def finish(self, end: store.Finished) -> None:
        """Remove a job as done."""
        self._pending += 1
        self._finish.push(end)

    def finish_with(self, end: Carrying) -> None:
        """Remove a job as done, and store what it carries, in one commit."""
        self._pending += 1
        self._finish_with.push(end)

    def put_off(self, end: store.PutOff) -> None:
        """Move a job to a later time."""
        self._pending += 1
        self._put_off.push(end)

    def dead_letter(self, end: store.Dead) -> None:
        """Move a job to the dead letters."""
        self._pending += 1
        self._dead_letter.push(end)

    def give_back(self, job: ClaimedJob) -> None:
        """Make a job ready again, uncharged."""
        self._pending += 1
        self._give_back.push(job)

    def cancel(self, end: cancels.Cancelled) -> None:
        """End a job as cancelled."""
        self._pending += 1
        self._cancel.push(end)

    async def drain(self, *, patience_s: float) -> None:
        """Write what is waiting, for `patience_s` at most."""
        lanes = (self._finish, self._put_off, self._dead_letter, self._give_back, self._cancel)
        try:
            async with asyncio.timeout(patience_s):
                await self._finish_with.drained()  # what it refuses has another end
                await asyncio.gather(*(lane.drained() for lane in lanes))
        except TimeoutError:
            _log.warning("%d ends of jobs could not be written in time; their jobs will run again", self._pending)

    def _settled(self, ends: Sequence[_End]) -> None:
        self._pending -= len(ends)
        self._holdings.difference_update(map(_fence, ends))
        if self._watcher is not None:
            self._watcher(map(_fence, ends))
        if self.watch.on_settled is not None:
            self.watch.on_settled()
        if self.watch.events:
            for end in ends:
                self.watch.tell(end.id)

    def _settled_with(self, ends: Sequence[Carrying]) -> None:
        self._settled(ends)
        for end in ends:
            for callback in end.carried.after_commit:
                callback()

    def _refused(self, end: Carrying, error: DatabaseError) -> None:
        self._pending -= 1
        end.refused(error)


def _log_refusal(end: _End, error: DatabaseError) -> None:
    # not its text: the server may quote a payload, and no payload belongs into a log
    what = f"{type(error).__name__} {error.sqlstate or ''}".strip()
    _log.error("job %d cannot be settled, it stays leased: %s", end.id, what)


async def _finish(connection: Connection, *, process: ProcessId, jobs: Sequence[store.Finished]) -> set[JobId]:
    """Nearly always all are in their first attempt and leave nothing, which is written with half the work."""
    attempt = jobs[0].attempt
    if any(map(_result, jobs)) or set(map(_attempt, jobs)) != {attempt}:
        return await store.finish(connection, process=process, jobs=jobs)
    return await store.finish_alike(connection, process=process, ids=list(map(_id, jobs)), attempt=attempt)


async def _finish_with(connection: Connection, *, process: ProcessId, jobs: Sequence[Carrying]) -> set[JobId]:
    """What a job carries is stored if and only if it was still held, in the transaction that ends it."""
    # of two attempts of one job only the later one can hold it
    last = {end.id: end for end in sorted(jobs, key=_attempt)}
    await connection.begin()
    ends = [store.Finished(end.id, end.attempt, end.result) for end in last.values()]
    held = await _finish(connection, process=process, jobs=ends)
    luggage = [one for id, end in last.items() if id in held for one in end.carried.jobs]
    await carried.enqueue(connection, luggage, now_s=monotonic())
    await connection.commit()
    return held
