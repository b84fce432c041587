"""`ctx.queue`: enqueues jobs. Each verb is one statement of the unit of work."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

import msgspec

from chimpbase._app.batch import Batch, SyncBatch
from chimpbase._app.dead_letters import DeadLetters, SyncDeadLetters
from chimpbase._app.explaining import Explaining, SyncExplaining
from chimpbase._app.inspecting import Inspecting, SyncInspecting
from chimpbase._app.job_handle import Follower, JobHandle, SyncJobHandle, handle_of, sync_handle
from chimpbase._app.job_status import JobStatus
from chimpbase._app.payload_reading import with_version
from chimpbase._app.payloads import taken
from chimpbase._app.queue_operations import QueueOperations, SyncQueueOperations, job_id
from chimpbase._app.striking import Striking, SyncStriking
from chimpbase._app.tokens import Queue
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.errors import DatabaseError, PayloadError, UsageError
from chimpbase._core.terms import NO_TERMS, EnqueueOptions, Terms, read_options
from chimpbase._core.values import JobId, NewJob, QueueId
from chimpbase._store import after

if TYPE_CHECKING:
    from chimpbase._app.definitions import Worker
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

T = TypeVar("T")
R = TypeVar("R")


class QueueClient(QueueOperations, DeadLetters, Explaining, Inspecting, Striking):
    """Enqueues jobs, and does to jobs and queues what an operator would, in the transaction of this call."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    def _in(self, frame: Frame) -> QueueClient:
        """The same in another transaction."""
        return QueueClient(self._backstage, frame, self._origin)

    @overload
    async def enqueue(self, queue: Worker[T, R], payload: T, **options: Unpack[EnqueueOptions]) -> JobHandle[R]: ...
    @overload
    async def enqueue(self, queue: Queue[T], payload: T, **options: Unpack[EnqueueOptions]) -> JobHandle[Any]: ...
    @overload
    async def enqueue(self, queue: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> JobHandle[Any]: ...
    async def enqueue(self, queue: Any, payload: Any = None, **options: Unpack[EnqueueOptions]) -> JobHandle[Any]:
        """Enqueue a job: it exists if and only if this transaction commits. Its handle, which is its id.

        `EnqueueOptions` tells what the options mean.

        Raises:
            NotRegistered: no queue of that name.
            PayloadError: the payload does not fit the queue's type, or cannot be stored. No SQL was sent.
            UsageError: an option is wrong. No SQL was sent.
        """
        (handle,) = await self._enqueue(queue, (payload,), options)
        return handle

    @overload
    async def enqueue_many(
        self, queue: Worker[T, R], payloads: Iterable[T], **options: Unpack[EnqueueOptions]
    ) -> list[JobHandle[R]]: ...
    @overload
    async def enqueue_many(
        self, queue: Queue[T], payloads: Iterable[T], **options: Unpack[EnqueueOptions]
    ) -> list[JobHandle[Any]]: ...
    @overload
    async def enqueue_many(
        self, queue: str, payloads: Iterable[Any], **options: Unpack[EnqueueOptions]
    ) -> list[JobHandle[Any]]: ...
    async def enqueue_many(
        self, queue: Any, payloads: Iterable[Any], **options: Unpack[EnqueueOptions]
    ) -> list[JobHandle[Any]]:
        """Enqueue many jobs at once, all or none of them; their handles, in order. The options hold for each of them.

        Raises:
            NotRegistered: no queue of that name.
            PayloadError: a payload does not fit; the reason names its place. No SQL was sent.
            UsageError: an option is wrong. No SQL was sent.
        """
        if not isinstance(cast("object", payloads), Iterable) or isinstance(payloads, str | bytes):
            raise UsageError(f"payloads must be several payloads, not {payloads!r:.40}. Pass a list.")
        return await self._enqueue(queue, payloads, options)

    async def get(self, id: int) -> JobStatus:
        """A job by its id, as this transaction sees it.

        Raises:
            NotFound: there is no such job, or no history of it.
            UsageError: that cannot be an id.
        """
        return await self.handle(id).status()

    def handle(self, id: int) -> JobHandle[Any]:
        """A handle of a job whose id was written down. Nobody is asked whether there is one.

        Raises:
            UsageError: that cannot be an id.
        """
        return handle_of(job_id(id), Follower(self._backstage, self._frame, self._in, None))

    @asynccontextmanager
    async def batch(self, *, on_done: tuple[Any, Any]) -> AsyncGenerator[Batch]:
        """Enqueue jobs in a block, and one more that runs when all of them have ended: completed, cancelled or dead.

        `on_done` is its queue and its payload; `ctx.job.batch` tells it how they ended. In a transaction all of it
        exists if and only if that commits; outside of one members exist, and run, as they are enqueued. An error that
        leaves the block takes the last job away, and outside of a transaction nothing else.

        Raises:
            NotRegistered, PayloadError: as `enqueue`.
        """
        given = cast("object", on_done)
        if not isinstance(given, tuple) or len(cast("tuple[object, ...]", given)) != 2:
            raise UsageError(f"on_done is a pair of a queue and a payload, not {on_done!r:.60}.")
        queue, payload = on_done
        (done,) = await self._enqueue(queue, (payload,), {}, {"open": True})
        batch = Batch(done, self._enqueue)
        try:
            yield batch
        except BaseException:
            await self._close(batch, given_up=True)
            raise
        await self._close(batch, given_up=False)

    async def _close(self, batch: Batch, *, given_up: bool) -> None:
        """No more members. If `given_up`, the job that was to follow them is taken away."""
        batch.close()
        try:
            async with self._frame.statement() as connection:
                await after.close(connection, job=JobId(batch.done), given_up=given_up)
        except DatabaseError:
            if not given_up:
                raise
        self._frame.after_commit.append(lambda: self._backstage.engine.later(0.0))
        await self._frame.unit.after_statement(self._frame)

    async def _enqueue(
        self,
        queue: Any,
        payloads: Iterable[Any],
        options: Mapping[str, Any],
        asked: Mapping[str, object] | None = None,
    ) -> list[JobHandle[Any]]:
        token = self._backstage.registry.queue(queue)
        terms = read_options(options) if options else NO_TERMS
        texts = list(_encoded(token, payloads, named=isinstance(queue, str)))
        if not texts:
            return []
        if terms.fields:
            _check_fields(texts, terms.fields)
        id, headers = await self._backstage.queue_id(token, self._frame), with_version(self._origin.headers(), token)
        new = NewJob(
            queue=id,
            payload=texts[0],
            delay=terms.delay,
            run_at=terms.run_at,
            priority=terms.priority,
            max_attempts=terms.max_attempts,
            headers=headers,
            key=terms.key,
            terms=terms.stored,
            asked=terms.asked if asked is None else _joined(terms.asked, asked),
        )
        ids = await self._backstage.enqueue(self._frame, new, texts, self._wake(id, terms))
        await self._frame.unit.after_statement(self._frame)
        follower = Follower(self._backstage, self._frame, self._in, getattr(queue, "results", None))
        return [handle_of(id, follower) for id in ids]

    def _wake(self, queue: QueueId, terms: Terms) -> Callable[[], None]:
        """What to tell the engine after the commit."""
        engine = self._backstage.engine
        if terms.asked is not None or terms.run_at is not None or terms.delay:
            # what was replaced may be ready now, or be due at any time; and only the database's clock knows `run_at`
            due_s = monotonic() + terms.delay.total_seconds() if terms.delay and terms.asked is None else 0.0

            def both() -> None:
                left_s = due_s - monotonic()
                if left_s <= 0:
                    engine.ready([queue])
                engine.later(left_s)

            return both
        return lambda: engine.ready([queue])


class SyncQueue(SyncQueueOperations, SyncDeadLetters, SyncExplaining, SyncInspecting, SyncStriking):
    """The blocking face of `QueueClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], QueueClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def enqueue(self, queue: Worker[T, R], payload: T, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[R]: ...
    @overload
    def enqueue(self, queue: Queue[T], payload: T, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[Any]: ...
    @overload
    def enqueue(self, queue: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[Any]: ...
    def enqueue(self, queue: Any, payload: Any = None, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[Any]:
        return sync_handle(self._wait(self._client().enqueue(queue, payload, **options)), self._wait)

    @overload
    def enqueue_many(
        self, queue: Worker[T, R], payloads: Iterable[T], **options: Unpack[EnqueueOptions]
    ) -> list[SyncJobHandle[R]]: ...
    @overload
    def enqueue_many(
        self, queue: Queue[T], payloads: Iterable[T], **options: Unpack[EnqueueOptions]
    ) -> list[SyncJobHandle[Any]]: ...
    @overload
    def enqueue_many(
        self, queue: str, payloads: Iterable[Any], **options: Unpack[EnqueueOptions]
    ) -> list[SyncJobHandle[Any]]: ...
    def enqueue_many(
        self, queue: Any, payloads: Iterable[Any], **options: Unpack[EnqueueOptions]
    ) -> list[SyncJobHandle[Any]]:
        handles = self._wait(self._client().enqueue_many(queue, payloads, **options))
        return [sync_handle(one, self._wait) for one in handles]

    @contextmanager
    def batch(self, *, on_done: tuple[Any, Any]) -> Generator[SyncBatch]:
        """See `QueueClient.batch`."""
        block = self._client().batch(on_done=on_done)
        batch = self._wait(block.__aenter__())
        try:
            yield SyncBatch(batch, self._wait)
        except BaseException as error:
            self._wait(block.__aexit__(type(error), error, error.__traceback__))
            raise
        self._wait(block.__aexit__(None, None, None))

    def get(self, id: int) -> JobStatus:
        """See `QueueClient.get`."""
        return self._wait(self._client().get(id))

    def handle(self, id: int) -> SyncJobHandle[Any]:
        """See `QueueClient.handle`."""
        return sync_handle(self._client().handle(id), self._wait)


def _joined(asked: str | None, more: Mapping[str, object]) -> str:
    own: dict[str, object] = msgspec.json.decode(asked) if asked else {}
    if not own.keys() <= {"after", "after_failed"}:
        raise UsageError("A member of a batch cannot be unique: it might be a job that is there, and ended long ago.")
    return msgspec.json.encode({**own, **more}).decode()


def _check_fields(texts: Iterable[str], fields: Iterable[str]) -> None:
    """Each payload must have them: without, all would be the same."""
    for text in texts:
        payload = msgspec.json.decode(text)
        missing = [field for field in fields if not isinstance(payload, dict) or field not in payload]
        if missing:
            raise UsageError(f"unique by field {missing[0]!r}, which the payload {text:.60} has not.")


def _encoded(token: Queue[Any], payloads: Iterable[Any], *, named: bool) -> Iterator[str]:
    subject = f"payload of queue {token.name!r}"
    for place, payload in enumerate(payloads):
        try:
            yield token.codec.encode(taken(token.codec, payload, subject, named=named), subject=subject)
        except PayloadError as error:
            if not place:
                raise
            raise PayloadError(f"payload {place}: {error.reason}", path=error.path, subject=subject) from error
