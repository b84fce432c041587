"""The decorators of workers and subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar, overload

from chimpbase._app.decorator_arguments import (
    Handler,
    Keeper,
    WorkerHandler,
    batch_of,
    check_payload,
    executor_of,
    flag_of,
    item_type,
    limits_of,
    payload_type,
    retention_of,
    retry_of,
    slots_of,
    timeout_of,
    token_of,
)
from chimpbase._app.definitions import Executor, Subscription, Worker
from chimpbase._app.subscription_arguments import Dispatch, SubscriptionStart, dispatch_of, event_of, field_of, start_of
from chimpbase._app.tokens import Event, Queue
from chimpbase._core.limits import Limits
from chimpbase._core.retry import Retry
from chimpbase._core.topics import conditions
from chimpbase._core.values import DAY

T = TypeVar("T")
R = TypeVar("R")


class WorkerDecorator(Keeper):
    """`worker`."""

    @overload
    def worker(
        self,
        queue: Queue[T],
        *,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        limits: Limits | None = ...,
        transaction: bool = ...,
        retention: timedelta | float | None = ...,
        executor: Executor = ...,
    ) -> Callable[[WorkerHandler[T, R]], Worker[T, R]]: ...
    @overload
    def worker(
        self,
        queue: str,
        *,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        limits: Limits | None = ...,
        transaction: bool = ...,
        retention: timedelta | float | None = ...,
        executor: Executor = ...,
    ) -> Callable[[WorkerHandler[Any, R]], Worker[Any, R]]: ...
    @overload
    def worker(
        self,
        queue: Queue[T],
        *,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        limits: Limits | None = ...,
        transaction: bool = ...,
        retention: timedelta | float | None = ...,
        batch: int,
    ) -> Callable[[WorkerHandler[list[T], Any]], Worker[T, None]]: ...
    @overload
    def worker(
        self,
        queue: str,
        *,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        limits: Limits | None = ...,
        transaction: bool = ...,
        retention: timedelta | float | None = ...,
        batch: int,
    ) -> Callable[[WorkerHandler[Any, Any]], Worker[Any, None]]: ...
    def worker(
        self,
        queue: Queue[Any] | str,
        *,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        concurrency: int | None = None,
        limits: Limits | None = None,
        transaction: bool = True,
        retention: timedelta | float | None = DAY,
        executor: Executor = "thread",
        batch: int | None = None,
    ) -> Callable[[WorkerHandler[Any, Any]], Worker[Any, Any]]:
        """Define the handler of a queue. The payload type is the token's, or for a bare name the handler's annotation.

        What it returns, unless that is None or an outcome, is the job's result: kept with its history and read with
        `handle.result()`. `timeout` is for one attempt, in seconds if a number. `concurrency` is for one
        process (default: the setting of that name), `limits` are for all of them together. With `transaction` (the
        default) the handler's writes and the job's completion commit together, so its effects in the database happen
        exactly once; without it each operation commits by itself and the job runs at least once.

        Finished jobs are kept for `retention`; with None none is. A day of history is dropped when no queue wants it
        any more, so those of a queue that wants less may stay a little longer.

        A plain `def` runs in a thread; with `executor="process"` in a child process, for work that keeps a processor
        busy. Its ctx is the same there, each verb a round trip over a pipe, and commits with the job as ever; only
        `on_commit` and what opens a block, as `ctx.kv.lock`, are refused. An attempt that takes longer than `timeout`
        is ended with its child. `concurrency` is then the number of children (default: that of processors).

        With `batch` the handler takes a list of payloads, as many as are there up to that number, which all end in one
        transaction. It may return an outcome for all, or a list with one or None for each. A batch that fails runs
        again in halves until what fails it is alone, and only that is charged. `ctx.jobs` has the jobs.

        Example:
            >>> @worker("mail.send", retry=Retry(max_attempts=8))
            ... async def send(ctx: Ctx, address: str) -> None: ...
            >>> send.name
            'mail.send'
        """

        def decorate(function: Callable[..., Any]) -> Worker[Any, Any]:
            together = batch_of(batch)
            asked = payload_type(function) if together is None else item_type(function)
            token = token_of(queue, Queue, lambda name: Queue(name, asked), subject="queue")
            check_payload(function, token.type if together is None else list[token.type])
            return self._keep(
                Worker(
                    name=token.name,
                    function=function,
                    queue=token,
                    retry=retry_of(retry),
                    timeout=timeout_of(timeout),
                    concurrency=slots_of(concurrency),
                    limits=limits_of(limits),
                    transaction=flag_of(transaction, subject="transaction"),
                    retention=retention_of(retention),
                    executor=executor_of(executor),
                    batch=together or 1,
                )
            )

        return decorate


class SubscribeDecorator(Keeper):
    """`subscribe`."""

    @overload
    def subscribe(
        self,
        event: Event[T],
        *,
        name: str | None = ...,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        limits: Limits | None = ...,
        transaction: bool = ...,
        where: Mapping[str, Any] | None = ...,
        ordered_by: str | None = ...,
        start: SubscriptionStart = ...,
        dispatch: Dispatch = ...,
    ) -> Callable[[Handler[T]], Subscription[T]]: ...
    @overload
    def subscribe(
        self,
        event: str,
        *,
        name: str | None = ...,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        limits: Limits | None = ...,
        transaction: bool = ...,
        where: Mapping[str, Any] | None = ...,
        ordered_by: str | None = ...,
        start: SubscriptionStart = ...,
        dispatch: Dispatch = ...,
    ) -> Callable[[Handler[Any]], Subscription[Any]]: ...
    def subscribe(
        self,
        event: Event[Any] | str,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        concurrency: int | None = None,
        limits: Limits | None = None,
        transaction: bool = True,
        where: Mapping[str, Any] | None = None,
        ordered_by: str | None = None,
        start: SubscriptionStart = "now",
        dispatch: Dispatch = "job",
    ) -> Callable[[Handler[Any]], Subscription[Any]]:
        """Define a subscription: what is done about each event of a topic.

        `name` is durable; it defaults to the function's. Every event committed while the subscription stands is owed to
        it, whatever happens to other subscriptions. Several processes with the same subscription share its deliveries.

        A topic may be a pattern: `order.*` for one word, `order.#` for any number of them; `ctx.pubsub.topic` tells
        which it is. `where` leaves out what it does not hold of, such as `{"total": {"gte": 100}}`, with eq, ne, gt,
        gte, lt, lte, in and exists. `ordered_by` names a field: events with one value of it are handled one at a time,
        in the order in which they were published. A new subscription gets what is published from `start` on: "now",
        "beginning" or an instant. With `dispatch="inline"` the handler runs in the publisher's own transaction, in
        this app, and its error is the publisher's. The other arguments are those of `worker`.

        Example:
            >>> @subscribe("order.placed")
            ... async def audit(ctx: Ctx, event: dict) -> None: ...
            >>> audit.event.name
            'order.placed'
        """

        def decorate(function: Callable[..., Any]) -> Subscription[Any]:
            token = event_of(event, function)
            check_payload(function, token.type)
            path = None if ordered_by is None else field_of(ordered_by)
            return self._keep(
                Subscription(
                    name=name or function.__name__,
                    function=function,
                    event=token,
                    retry=retry_of(retry),
                    timeout=timeout_of(timeout),
                    concurrency=slots_of(concurrency),
                    limits=limits_of(Limits(ordered=True) if limits is None and path else limits),
                    transaction=flag_of(transaction, subject="transaction"),
                    conditions=tuple(conditions({} if where is None else where)),
                    ordered_by=path,
                    start=start_of(start),
                    dispatch=dispatch_of(dispatch),
                )
            )

        return decorate
