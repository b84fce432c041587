"""SyncCtx: the ctx of plain functions. The same verbs under the same names, each of which waits for its answer.

A handler's lives in a thread: every verb runs on the runtime's event loop and blocks the thread until it is done. One
that is bound to a synchronous connection runs its verbs where it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from chimpbase._app.clients import DbClient, KvClient, PubSubClient, QueueClient
from chimpbase._app.definitions import Action, Step, Subscription, Worker, Workflow
from chimpbase._app.origin import Job
from chimpbase._app.tokens import Event, Queue, Signal
from chimpbase._app.workflows import Run, WorkflowClient
from chimpbase._core.errors import UsageError
from chimpbase._core.values import JobId

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Waiter = Callable[[Coroutine[Any, Any, Any]], Any]


class AsyncContext(Protocol):
    """The ctx of which a SyncCtx is the blocking face."""

    @property
    def db(self) -> DbClient: ...
    @property
    def queue(self) -> QueueClient: ...
    @property
    def pubsub(self) -> PubSubClient: ...
    @property
    def workflow(self) -> WorkflowClient: ...
    @property
    def kv(self) -> KvClient: ...
    @property
    def job(self) -> Job: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def trace_id(self) -> str: ...
    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]: ...
    def secret(self, name: str) -> str: ...
    def on_commit(self, callback: Callable[[], None]) -> None: ...
    def call(self, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def run_step(self, step: Step[P, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, R]: ...


def on_loop(loop: asyncio.AbstractEventLoop) -> Waiter:
    """Run a verb on the event loop, from another thread, and block until it is done."""
    return lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()


def in_place(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a verb that never suspends, because its connection is a synchronous one. Needs no event loop.

    Raises:
        UsageError: it suspends all the same.
    """
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise UsageError(
        "This ctx is bound to a synchronous connection, so an async action called with it may await nothing but ctx. "
        "Bind an asynchronous connection, or make the call in a job."
    )


class SyncCtx:
    """The context of one call of a plain function. See `Ctx` for what each verb means."""

    def __init__(self, ctx: AsyncContext, wait: Waiter) -> None:
        self._ctx, self._wait = ctx, wait
        self.db = SyncDb(ctx, wait)
        self.queue = SyncQueue(ctx, wait)
        self.pubsub = SyncPubSub(ctx, wait)
        self.workflow = SyncWorkflow(ctx, wait)
        self.kv = SyncKv(ctx, wait)

    @property
    def job(self) -> Job:
        """See `Ctx.job`."""
        return self._ctx.job

    @property
    def idempotency_key(self) -> str:
        """See `Ctx.idempotency_key`."""
        return self._ctx.idempotency_key

    @property
    def trace_id(self) -> str:
        """See `Ctx.trace_id`."""
        return self._ctx.trace_id

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """See `Ctx.log`."""
        return self._ctx.log

    def secret(self, name: str) -> str:
        """See `Ctx.secret`."""
        return self._ctx.secret(name)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """See `Ctx.on_commit`."""
        self._ctx.on_commit(callback)

    def call(self, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Ctx.call`."""
        return self._wait(self._ctx.call(action, *args, **kwargs))

    def run_step(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a step as a part of this transaction. See `Ctx.run_step`."""
        return self._wait(self._ctx.run_step(step, args, kwargs))


class SyncDb:
    def __init__(self, ctx: AsyncContext, wait: Waiter) -> None:
        self._ctx, self._wait = ctx, wait

    @overload
    def fetch_one(self, sql: str, *args: Any, as_: type[T]) -> T: ...
    @overload
    def fetch_one(self, sql: str, *args: Any) -> dict[str, Any] | None: ...
    def fetch_one(self, sql: str, *args: Any, as_: Any = None) -> Any:
        return self._wait(self._ctx.db.fetch_one(sql, *args, as_=as_))

    @overload
    def fetch(self, sql: str, *args: Any, as_: type[T]) -> list[T]: ...
    @overload
    def fetch(self, sql: str, *args: Any) -> list[dict[str, Any]]: ...
    def fetch(self, sql: str, *args: Any, as_: Any = None) -> Any:
        return self._wait(self._ctx.db.fetch(sql, *args, as_=as_))

    def fetch_value(self, sql: str, *args: Any) -> Any:
        return self._wait(self._ctx.db.fetch_value(sql, *args))

    def execute(self, sql: str, *args: Any) -> int:
        return self._wait(self._ctx.db.execute(sql, *args))


class SyncQueue:
    def __init__(self, ctx: AsyncContext, wait: Waiter) -> None:
        self._ctx, self._wait = ctx, wait

    @overload
    def enqueue(
        self,
        queue: Queue[T] | Worker[T],
        payload: T,
        *,
        delay: timedelta | float | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
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
    ) -> JobId: ...
    def enqueue(self, queue: Any, payload: Any = None, **options: Any) -> JobId:
        return self._wait(self._ctx.queue.enqueue(queue, payload, **options))


class SyncPubSub:
    def __init__(self, ctx: AsyncContext, wait: Waiter) -> None:
        self._ctx, self._wait = ctx, wait

    @overload
    def publish(self, event: Event[T] | Subscription[T], payload: T) -> int: ...
    @overload
    def publish(self, event: str, payload: Any = None) -> int: ...
    def publish(self, event: Any, payload: Any = None) -> int:
        return self._wait(self._ctx.pubsub.publish(event, payload))


class SyncWorkflow:
    def __init__(self, ctx: AsyncContext, wait: Waiter) -> None:
        self._ctx, self._wait = ctx, wait

    @overload
    def start(
        self,
        workflow: Workflow[T, Any],
        input: T = ...,
        *,
        id: str | None = None,
        delay: timedelta | float | None = None,
    ) -> str: ...
    @overload
    def start(
        self, workflow: str, input: Any = None, *, id: str | None = None, delay: timedelta | float | None = None
    ) -> str: ...
    def start(self, workflow: Any, input: Any = None, **options: Any) -> str:
        return self._wait(self._ctx.workflow.start(workflow, input, **options))

    @overload
    def signal(self, id: str, signal: Signal[T], payload: T) -> None: ...
    @overload
    def signal(self, id: str, signal: str, payload: Any = None) -> None: ...
    def signal(self, id: str, signal: Any, payload: Any = None) -> None:
        self._wait(self._ctx.workflow.signal(id, signal, payload))

    def get(self, id: str) -> Run:
        return self._wait(self._ctx.workflow.get(id))

    def result(self, id: str, *, timeout: timedelta | float | None = None) -> Any:
        return self._wait(self._ctx.workflow.result(id, timeout=timeout))


class SyncKv:
    def __init__(self, ctx: AsyncContext, wait: Waiter) -> None:
        self._ctx, self._wait = ctx, wait

    def get(self, key: str, default: Any = None) -> Any:
        return self._wait(self._ctx.kv.get(key, default))

    def set(self, key: str, value: Any, *, ttl: timedelta | float | None = None) -> None:
        self._wait(self._ctx.kv.set(key, value, ttl=ttl))

    def delete(self, key: str) -> bool:
        return self._wait(self._ctx.kv.delete(key))
