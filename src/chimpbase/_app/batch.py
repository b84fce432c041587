"""A batch: jobs that one more job follows, once the last of them has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from chimpbase._app.job_handle import JobHandle, SyncJobHandle, sync_handle
from chimpbase._app.waiter import Waiter
from chimpbase._core.errors import UsageError
from chimpbase._core.terms import EnqueueOptions

if TYPE_CHECKING:
    from chimpbase._app.definitions import Worker
    from chimpbase._app.tokens import Queue

T = TypeVar("T")
Enqueue = Callable[[Any, Iterable[Any], Mapping[str, Any], Mapping[str, object]], Awaitable[list[JobHandle[Any]]]]


class Batch:
    """Takes the members of a batch, in the block that `ctx.queue.batch` opens. `done` is the job that follows them."""

    def __init__(self, done: JobHandle[Any], enqueue: Enqueue) -> None:
        self.done, self._enqueue, self._closed = done, enqueue, False

    async def enqueue(
        self, queue: Queue[T] | Worker[T, Any] | str, payload: Any = None, **options: Unpack[EnqueueOptions]
    ) -> JobHandle[Any]:
        """Enqueue a member. See `QueueClient.enqueue`.

        Raises:
            UsageError: the block is over, or the job were to be unique: it might be another one, which ended long ago.
        """
        (handle,) = await self.enqueue_many(queue, (payload,), **options)
        return handle

    async def enqueue_many(
        self, queue: Queue[T] | Worker[T, Any] | str, payloads: Iterable[Any], **options: Unpack[EnqueueOptions]
    ) -> list[JobHandle[Any]]:
        """Enqueue members. See `QueueClient.enqueue_many`, and `enqueue`."""
        if self._closed:
            raise UsageError(f"The batch that job {int(self.done)} follows is closed; it takes no more members.")
        return await self._enqueue(queue, payloads, options, {"batch": int(self.done)})

    def close(self) -> None:
        """Take no more members."""
        self._closed = True


class SyncBatch:
    """The blocking face of `Batch`, whose verbs mean the same."""

    def __init__(self, batch: Batch, wait: Waiter) -> None:
        self._batch, self._wait = batch, wait

    @property
    def done(self) -> SyncJobHandle[Any]:
        """See `Batch.done`."""
        return sync_handle(self._batch.done, self._wait)

    def enqueue(
        self, queue: Queue[T] | Worker[T, Any] | str, payload: Any = None, **options: Unpack[EnqueueOptions]
    ) -> SyncJobHandle[Any]:
        """See `Batch.enqueue`."""
        return sync_handle(self._wait(self._batch.enqueue(queue, payload, **options)), self._wait)

    def enqueue_many(
        self, queue: Queue[T] | Worker[T, Any] | str, payloads: Iterable[Any], **options: Unpack[EnqueueOptions]
    ) -> list[SyncJobHandle[Any]]:
        """See `Batch.enqueue_many`."""
        handles = self._wait(self._batch.enqueue_many(queue, payloads, **options))
        return [sync_handle(one, self._wait) for one in handles]
