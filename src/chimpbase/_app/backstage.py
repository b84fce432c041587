"""Backstage: what every ctx of one runtime shares. Made once by the runtime; ctx and its clients only read it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from msgspec import structs

from chimpbase._app.crew import Crew
from chimpbase._app.entries import Entry
from chimpbase._app.luggage import JobIds
from chimpbase._app.queue_names import queue_name
from chimpbase._app.registry import Registry
from chimpbase._app.run_options import RunOptions, encode_attributes
from chimpbase._app.run_output import follow_run
from chimpbase._app.run_watch import RunWatch
from chimpbase._app.shared_commits import SharedCommits
from chimpbase._app.stream_reading import follow
from chimpbase._app.tokens import Queue, Stream
from chimpbase._app.unit import Frame, Unit
from chimpbase._core.errors import NotRegistered
from chimpbase._core.values import CarriedJob, JobId, NewJob, NewRun, QueueId, QueueSpec, RunEnd, RunStatus
from chimpbase._engine.engine import Engine
from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.db import Db
from chimpbase._store import following, jobs, queues, run_queries
from chimpbase._store.following import FollowedJob

if TYPE_CHECKING:
    from chimpbase._app.definitions import Workflow


class Backstage:
    """The rooms below, as ctx sees them. The stage of a running app."""

    is_sync = False

    def __init__(
        self,
        *,
        db: Db,
        lanes: Db,
        engine: Engine,
        registry: Registry,
        secrets: Mapping[str, str],
        threads: Executor,
        crew: Crew,
        new_id: Callable[[], str],
        new_trace: Callable[[], str],
    ) -> None:
        self.db, self.engine, self.registry, self.secrets = db, engine, registry, secrets
        self.threads, self.crew, self.new_id, self.new_trace = threads, crew, new_id, new_trace
        self.shared = SharedCommits(db, lanes, ready=engine.ready, appended=engine.appended)
        self._queue_ids: dict[str, QueueId] = {}
        self._runs = RunWatch(lanes, is_here=engine.activator.is_here)
        self._alone: Coalescer[NewJob, JobId] = Coalescer(self._enqueue_together, max_batch=1000, lanes=2)
        self._starts: Coalescer[NewRun, bool] = Coalescer(self._start_together, max_batch=500, lanes=2)
        self._lanes, self._job_ids = lanes, JobIds(lanes)
        self._reports: Coalescer[following.Report, None] = Coalescer(self._report_together, max_batch=1000)
        engine.watch_ended(self._runs.ended)

    @asynccontextmanager
    async def unit(self, title: str) -> AsyncGenerator[Unit]:
        """A transaction that commits when the block is left normally and is taken back when it is not."""
        async with self.open_unit(title) as unit:
            yield unit
            await unit.commit()

    @asynccontextmanager
    async def open_unit(self, title: str, *, transaction: bool = True) -> AsyncGenerator[Unit]:
        """A transaction that the block commits itself; what it has not committed is taken back."""
        unit = Unit(self.db, title=title, transaction=transaction)
        try:
            yield unit
        finally:
            if not unit.committed:
                await unit.rollback()

    def learn_queues(self, ids: Mapping[str, QueueId]) -> None:
        """Remember what the database calls these queues."""
        self._queue_ids.update(ids)

    async def queue_id(self, queue: Queue[Any], frame: Frame) -> QueueId:
        """The queue's number in the database. A token that no process has declared yet is declared now, for good.

        Its jobs wait, visibly, for a process that works it.
        """
        known = self._queue_ids.get(queue.name)
        if known is not None:
            return known
        async with self.db.acquire() as connection:
            await queues.register(connection, [QueueSpec(name=queue.name, kind="job", max_attempts=None)])
            found = await queues.list_all(connection)
        self.learn_queues({name: id for name, (id, _) in found.items()})
        if queue.name not in self._queue_ids:
            raise NotRegistered("queue", queue.name, self._queue_ids)
        return self._queue_ids[queue.name]

    async def enqueue(
        self, frame: Frame, new: NewJob, payloads: Sequence[str], wake: Callable[[], None]
    ) -> list[JobId]:
        """Store a job like `new` for each of the payloads, of which it has the first, in the transaction of a frame.

        `wake` is called after the commit. Outside of a transaction a single job goes in a commit shared with its likes,
        and several in a transaction of their own.
        """
        carried = await self._carry(frame, new, payloads, wake)
        if carried is not None:
            return carried
        ids = await self._store(frame, new, payloads)
        if frame.unit.transactional or len(payloads) > 1 or not new.plain:
            # a single job outside a transaction is told of by whoever stored it, unless it runs already
            frame.after_commit.append(wake)
        return ids

    async def _store(self, frame: Frame, new: NewJob, payloads: Sequence[str]) -> list[JobId]:
        if new.asked is not None:
            async with frame.statement() as connection:
                return await jobs.enqueue_with(connection, new, payloads)
        if len(payloads) == 1:
            if not frame.unit.transactional:
                return [await self._alone.submit(new)]
            async with frame.statement() as connection:
                return await jobs.enqueue(connection, (new,))
        if frame.unit.transactional or jobs.fits_one_statement(payloads):
            async with frame.statement() as connection:
                return await jobs.enqueue_many(connection, new, payloads)
        async with self.db.transaction() as connection:
            return await jobs.enqueue_many(connection, new, payloads)

    async def _carry(
        self, frame: Frame, new: NewJob, payloads: Sequence[str], wake: Callable[[], None]
    ) -> list[JobId] | None:
        """Leave them to the end of the job whose handler enqueues them; None when they are to be stored at once."""
        known = self._job_ids
        while new.asked is None and new.queue not in known.gated and frame.unit.can_carry(frame, payloads):
            ids = known.take(len(payloads))
            if ids is not None:
                since_s = monotonic()
                left = [
                    CarriedJob(id, new if payload is new.payload else structs.replace(new, payload=payload), since_s)
                    for id, payload in zip(ids, payloads, strict=True)
                ]
                frame.unit.carry(left, wake)
                return ids
            # with the turn, so that a handler that returns without awaiting this fails, as with any statement
            await frame.take_turn()
            try:
                await known.draw(len(payloads))
            finally:
                frame.pass_turn()
        return None

    async def _enqueue_together(self, new: list[NewJob]) -> list[JobId]:
        born = await self.engine.enqueue(self.db, new)
        if born is not None:
            return born
        async with self.db.acquire() as connection:
            ids = await jobs.enqueue(connection, new)
        self.engine.ready({job.queue for job in new if job.delay is None and job.run_at is None})
        return ids

    async def start_run(
        self, definition: Workflow[Any, Any], id: str, input: str, headers: str, options: RunOptions
    ) -> bool:
        """Start a run at once, in a commit shared with its likes. False, with nothing done: its id is taken or is to be
        replaced, or its workflow unknown, and the statement for a single run is to tell which.
        """
        queue = self._queue_ids.get(queue_name(definition))
        if queue is None or options.get("on_conflict") == "replace":
            return False
        attributes = options.get("attributes")
        new = NewRun(
            definition.name,
            definition.version,
            queue,
            id,
            input,
            headers,
            options.get("priority", 0),
            options.get("key"),
            None if attributes is None else encode_attributes(attributes),
        )
        return await self._starts.submit(new)

    async def _start_together(self, new: list[NewRun]) -> list[bool]:
        started, rest = await self.engine.run_births.start(self._lanes, new)
        self.engine.ready(rest)
        return started

    async def run_status(self, run: str) -> RunStatus | None:
        """What a run is doing, as far as it is committed; None when there is none."""
        async with self.db.acquire() as connection:
            return await run_queries.get(connection, id=run)

    def run_end(self, run: str, limit_s: float | None) -> Awaitable[RunEnd | None]:
        """How a run ended, once it has; None when there is no such run. `TimeoutError` after so many seconds."""
        return self._runs.end(run, limit_s)

    async def job(self, id: JobId, frame: Frame | None) -> FollowedJob | None:
        """A job as the transaction of that frame sees it, or as it is committed; None when there is none."""
        if frame is not None:
            async with frame.statement() as connection:
                return await following.get(connection, id=id)
        async with self.db.acquire() as connection:
            return await following.get(connection, id=id)

    async def report(self, job: JobId, attempt: int, fraction: float, note: str | None) -> None:
        """Write how far an attempt is, beside any transaction; together with what others say at the same time."""
        await self._reports.submit(following.Report(job, attempt, fraction, note))

    async def _report_together(self, reports: list[following.Report]) -> list[None]:
        latest = {one.job: one for one in reports}  # of several of one job the last one counts
        async with self._lanes.acquire() as connection:
            await following.report(connection, reports=list(latest.values()))
        return [None] * len(reports)

    async def tail(
        self, stream: Stream[Any], *, after: str | None, since: datetime | None = None, run: str | None = None
    ) -> AsyncGenerator[Entry[Any]]:
        """Every entry of a stream as it is committed; or what a run puts out there, until it has ended."""
        listen = self.engine.tails.listen
        if run is None:
            entries = follow(self.db, stream, after=after, since=since, listen=listen)
        else:
            entries = follow_run(self.db, stream, run=run, after=after, status=self.run_status, listen=listen)
        async with aclosing(entries):
            async for entry in entries:
                yield entry
