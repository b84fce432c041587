"""`ctx.queue`: enqueues jobs. Each verb is one statement of the unit of work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from chimpbase._app.payloads import taken
from chimpbase._app.queue_operations import QueueOperations, SyncQueueOperations
from chimpbase._app.tokens import Queue
from chimpbase._app.unit import Frame
from chimpbase._app.waiter import Waiter
from chimpbase._core.durations import seconds
from chimpbase._core.errors import PayloadError, UsageError
from chimpbase._core.names import check_key
from chimpbase._core.values import JobId, NewJob

if TYPE_CHECKING:
    from chimpbase._app.definitions import Worker
    from chimpbase._app.origin import Origin
    from chimpbase._app.stage import Stage

T = TypeVar("T")


class QueueClient(QueueOperations):
    """Enqueues jobs, and does to jobs and queues what an operator would, in the transaction of this call."""

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    @overload
    async def enqueue(
        self,
        queue: Queue[T] | Worker[T],
        payload: T,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> JobId: ...
    @overload
    async def enqueue(
        self,
        queue: str,
        payload: Any = None,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> JobId: ...
    async def enqueue(
        self,
        queue: Any,
        payload: Any = None,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> JobId:
        """Enqueue a job: it exists if and only if this transaction commits. Its id.

        `delay` is in seconds if a number; `priority` runs from -100 (first) to 100 (last); `max_attempts` overrides
        the worker's. `key`, a tenant or an account for example, is what the limits and the order of a queue go by.

        Raises:
            NotRegistered: no queue of that name.
            PayloadError: the payload does not fit the queue's type, or cannot be stored. No SQL was sent.
        """
        (id,) = await self._enqueue(queue, [payload], delay, priority, max_attempts, key)
        return id

    @overload
    async def enqueue_many(
        self,
        queue: Queue[T] | Worker[T],
        payloads: Iterable[T],
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> list[JobId]: ...
    @overload
    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> list[JobId]: ...
    async def enqueue_many(
        self,
        queue: Any,
        payloads: Iterable[Any],
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> list[JobId]:
        """Enqueue many jobs at once, all or none of them; their ids, in order. The options are those of `enqueue`.

        Raises:
            NotRegistered: no queue of that name.
            PayloadError: a payload does not fit; the reason names its place. No SQL was sent.
        """
        return await self._enqueue(queue, payloads, delay, priority, max_attempts, key)

    async def _enqueue(
        self,
        queue: Any,
        payloads: Iterable[Any],
        delay: timedelta | float | None,
        priority: int,
        max_attempts: int | None,
        key: str | None,
    ) -> list[JobId]:
        token = self._backstage.registry.queue(queue)
        delay_s = None if delay is None else seconds(delay, subject="delay").total_seconds()
        priority = _whole(priority, "priority", -100, 100)
        limit = None if max_attempts is None else _whole(max_attempts, "max_attempts", 1, 1000)
        key = None if key is None else check_key("key", key)
        texts = list(_encoded(token, payloads, named=isinstance(queue, str)))
        if not texts:
            return []
        id, headers = await self._backstage.queue_id(token, self._frame), self._origin.headers()
        new = [
            NewJob(
                queue=id,
                payload=text,
                delay_s=delay_s,
                priority=priority,
                max_attempts=limit,
                headers=headers,
                key=key,
            )
            for text in texts
        ]
        ids = await self._backstage.enqueue(self._frame, new)
        engine = self._backstage.engine
        self._frame.after_commit.append((lambda: engine.later(delay_s)) if delay_s else (lambda: engine.ready([id])))
        await self._frame.unit.after_statement(self._frame)
        return ids


class SyncQueue(SyncQueueOperations):
    """The blocking face of `QueueClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], QueueClient], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def enqueue(
        self,
        queue: Queue[T] | Worker[T],
        payload: T,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> JobId: ...
    @overload
    def enqueue(
        self,
        queue: str,
        payload: Any = None,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        key: str | None = None,
    ) -> JobId: ...
    def enqueue(self, queue: Any, payload: Any = None, **options: Any) -> JobId:
        return self._wait(self._client().enqueue(queue, payload, **options))


def _encoded(token: Queue[Any], payloads: Iterable[Any], *, named: bool) -> Iterator[str]:
    subject = f"payload of queue {token.name!r}"
    for place, payload in enumerate(payloads):
        try:
            yield token.codec.encode(taken(token.codec, payload, subject, named=named), subject=subject)
        except PayloadError as error:
            if not place:
                raise
            raise PayloadError(f"payload {place}: {error.reason}", path=error.path, subject=subject) from error


def _whole(value: int, name: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}, not {value!r:.40}.")
    return value
