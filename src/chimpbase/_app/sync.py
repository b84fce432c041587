"""SyncCtx: the ctx of plain functions. The same verbs under the same names, each of which waits for its answer.

A handler's lives in a thread: every verb runs on the runtime's event loop and blocks the thread until it is done. One
that is bound to a synchronous connection runs its verbs where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar

from chimpbase._app.collection_client import Collections
from chimpbase._app.collection_sync import SyncCollections
from chimpbase._app.cron_client import CronClient, SyncCron
from chimpbase._app.db_client import DbClient, SyncDb
from chimpbase._app.definitions import Action, Step
from chimpbase._app.kv_client import KvClient
from chimpbase._app.kv_sync import SyncKv
from chimpbase._app.origin import Job, RunningJob, SyncRunningJob, running
from chimpbase._app.pubsub_client import PubSubClient, SyncPubSub
from chimpbase._app.queue_client import QueueClient, SyncQueue
from chimpbase._app.stream_client import StreamClient
from chimpbase._app.stream_sync import SyncStream
from chimpbase._app.sync_workflow import SyncWorkflow
from chimpbase._app.waiter import Waiter
from chimpbase._app.workflows import WorkflowClient

P = ParamSpec("P")
R = TypeVar("R")


class AsyncClients(Protocol):
    """What that ctx acts on."""

    @property
    def db(self) -> DbClient: ...
    @property
    def queue(self) -> QueueClient: ...
    @property
    def pubsub(self) -> PubSubClient: ...
    @property
    def workflow(self) -> WorkflowClient: ...
    @property
    def kv(self) -> KvClient[Any]: ...
    @property
    def cron(self) -> CronClient: ...
    @property
    def stream(self) -> StreamClient: ...
    @property
    def collection(self) -> Collections: ...


class AsyncContext(AsyncClients, Protocol):
    """The ctx of which a SyncCtx is the blocking face."""

    @property
    def jobs(self) -> tuple[Job, ...]: ...
    @property
    def job(self) -> RunningJob: ...
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


class SyncCtx:
    """The context of one call of a plain function. See `Ctx` for what each verb means."""

    def __init__(self, ctx: AsyncContext, wait: Waiter) -> None:
        self._ctx, self._wait = ctx, wait
        self.db = SyncDb(lambda: ctx.db, wait)
        self.queue = SyncQueue(lambda: ctx.queue, wait)
        self.pubsub = SyncPubSub(lambda: ctx.pubsub, wait)
        self.workflow = SyncWorkflow(lambda: ctx.workflow, wait)
        self.kv = SyncKv(lambda: ctx.kv, wait)
        self.cron = SyncCron(lambda: ctx.cron, wait)
        self.stream = SyncStream(lambda: ctx.stream, wait)
        self.collection = SyncCollections(lambda: ctx.collection, wait)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """See `Ctx.jobs`."""
        return self._ctx.jobs

    @property
    def job(self) -> SyncRunningJob:
        """See `Ctx.job`."""
        job = self._ctx.job
        return running(SyncRunningJob, job, lambda fraction, note: self._wait(job.progress(fraction, note)))

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

    def run_step(self, step: Step[P, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """What calling a step with a ctx does. See `Ctx.run_step`."""
        return self._wait(self._ctx.run_step(step, args, kwargs))
