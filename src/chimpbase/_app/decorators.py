"""The decorators. Each returns a pure definition; nothing is registered until an App is given it.

Every one takes async functions, whose context is `Ctx` (in a workflow `Wf`), and plain functions, whose context is
`SyncCtx` and which run in a thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from chimpbase._app.ctx import Ctx
from chimpbase._app.definitions import Action, Cron, Definition, Step, Subscription, Worker, Workflow, source_of
from chimpbase._app.sync import SyncCtx
from chimpbase._app.tokens import Event, Queue
from chimpbase._app.wf import Wf
from chimpbase._core.cron import Cadence
from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.occurrence import Occurrence
from chimpbase._core.outcomes import Outcome
from chimpbase._core.parameters import Parameters
from chimpbase._core.retry import Retry
from chimpbase._core.values import Misfire

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D", bound=Definition)

#: What a worker, subscription or cron handler may be: its result is None or an outcome.
Handler = Callable[[Ctx, T], Coroutine[Any, Any, Outcome | None]] | Callable[[SyncCtx, T], Outcome | None]
_STEP_RETRY = Retry(max_attempts=3)


class _DecorateAction(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]], /) -> Action[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[SyncCtx, P], R], /) -> Action[P, R]: ...


class _DecorateStep(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[SyncCtx, P], R], /) -> Step[P, R]: ...


class _DecorateWorkflow(Protocol):
    @overload
    def __call__(self, function: Callable[[Wf, T], Coroutine[Any, Any, R]], /) -> Workflow[T, R]: ...
    @overload
    def __call__(self, function: Callable[[Wf], Coroutine[Any, Any, R]], /) -> Workflow[None, R]: ...


class Decorators:
    """The six decorators. An App is one too: there they also register."""

    def _keep(self, definition: D) -> D:
        return definition

    @overload
    def action(self, function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]], /) -> Action[P, R]: ...
    @overload
    def action(self, function: Callable[Concatenate[SyncCtx, P], R], /) -> Action[P, R]: ...
    @overload
    def action(self, /, *, name: str | None = None) -> _DecorateAction: ...
    def action(self, function: Any = None, /, *, name: str | None = None) -> Any:
        """Define an action: a named operation in one transaction. `name` defaults to the function's.

        Example:
            >>> @action
            ... async def greet(ctx: Ctx, who: str) -> str:
            ...     return f"hello {who}"
            >>> greet.name
            'greet'
        """

        def decorate(function: Callable[..., Any]) -> Action[..., Any]:
            return self._keep(Action(name=name or function.__name__, function=function))

        return decorate if function is None else decorate(function)

    @overload
    def worker(
        self,
        queue: Queue[T],
        *,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        transaction: bool = ...,
    ) -> Callable[[Handler[T]], Worker[T]]: ...
    @overload
    def worker(
        self,
        queue: str,
        *,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        transaction: bool = ...,
    ) -> Callable[[Handler[Any]], Worker[Any]]: ...
    def worker(
        self,
        queue: Queue[Any] | str,
        *,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        concurrency: int | None = None,
        transaction: bool = True,
    ) -> Callable[[Handler[Any]], Worker[Any]]:
        """Define the handler of a queue. The payload type is the token's, or for a bare name the handler's annotation.

        `timeout` is for one attempt, in seconds if a number. `concurrency` is for one
        process (default: the setting of that name). With `transaction` (the
        default) the handler's writes and the job's completion commit together, so its effects in the database happen
        exactly once; without it each operation commits by itself and the job runs at least once.

        Example:
            >>> @worker("mail.send", retry=Retry(max_attempts=8))
            ... async def send(ctx: Ctx, address: str) -> None: ...
            >>> send.name
            'mail.send'
        """

        def decorate(function: Callable[..., Any]) -> Worker[Any]:
            token = Queue(queue, _payload_type(function)) if isinstance(queue, str) else queue
            _check_payload(function, token.type)
            return self._keep(
                Worker(
                    name=token.name,
                    function=function,
                    queue=token,
                    retry=retry or Retry(),
                    timeout=_timeout(timeout),
                    concurrency=_slots(concurrency),
                    transaction=transaction,
                )
            )

        return decorate

    @overload
    def subscribe(
        self,
        event: Event[T],
        *,
        name: str | None = ...,
        retry: Retry | None = ...,
        timeout: timedelta | float | None = ...,
        concurrency: int | None = ...,
        transaction: bool = ...,
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
        transaction: bool = ...,
    ) -> Callable[[Handler[Any]], Subscription[Any]]: ...
    def subscribe(
        self,
        event: Event[Any] | str,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        concurrency: int | None = None,
        transaction: bool = True,
    ) -> Callable[[Handler[Any]], Subscription[Any]]:
        """Define a subscription: what is done about each event of a topic.

        `name` is durable; it defaults to the function's. Every event committed while the subscription stands is owed to
        it, whatever happens to other subscriptions. Several processes with the same subscription share its deliveries.
        The other arguments are those of `worker`.

        Example:
            >>> @subscribe("order.placed")
            ... async def audit(ctx: Ctx, event: dict) -> None: ...
            >>> audit.event.name
            'order.placed'
        """

        def decorate(function: Callable[..., Any]) -> Subscription[Any]:
            token = Event(event, _payload_type(function)) if isinstance(event, str) else event
            _check_payload(function, token.type)
            return self._keep(
                Subscription(
                    name=name or function.__name__,
                    function=function,
                    event=token,
                    retry=retry or Retry(),
                    timeout=_timeout(timeout),
                    concurrency=_slots(concurrency),
                    transaction=transaction,
                )
            )

        return decorate

    def cron(
        self,
        expression: str,
        *,
        tz: str = "UTC",
        name: str | None = None,
        misfire: Misfire = "last",
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        transaction: bool = True,
    ) -> Callable[[Handler[Occurrence]], Cron]:
        """Define a schedule: 5 fields (minute first), or 6 (second first), or `@daily` and its like, in a time zone.

        `misfire` says what becomes of instants that passed while nothing ran: the latest one is made up for (`last`),
        all (`all`), none (`skip`). Each instant becomes one job, whatever the number of processes.

        Example:
            >>> @cron("0 9 * * 1-5", tz="Europe/Lisbon")
            ... async def report(ctx: Ctx, due: Occurrence) -> None: ...
            >>> report.cadence.explain()
            'At 09:00 on Monday through Friday (Europe/Lisbon)'
        """

        def decorate(function: Callable[..., Any]) -> Cron:
            if misfire not in ("skip", "last", "all"):
                raise UsageError(f"misfire must be 'skip', 'last' or 'all', not {misfire!r} ({source_of(function)}).")
            try:
                cadence = Cadence(expression, tz)
            except UsageError as error:
                raise UsageError(f"@cron of {function.__name__}: {error} ({source_of(function)})") from None
            return self._keep(
                Cron(
                    name=name or function.__name__,
                    function=function,
                    cadence=cadence,
                    misfire=misfire,
                    retry=retry or Retry(),
                    timeout=_timeout(timeout),
                    transaction=transaction,
                )
            )

        return decorate

    @overload
    def step(self, function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def step(self, function: Callable[Concatenate[SyncCtx, P], R], /) -> Step[P, R]: ...
    @overload
    def step(
        self, /, *, name: str | None = None, retry: Retry | None = None, timeout: timedelta | float | None = None
    ) -> _DecorateStep: ...
    def step(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
    ) -> Any:
        """Define a workflow step. What it writes through `ctx` and the memory of its result commit together.

        `retry` defaults to three attempts; `timeout` is for one attempt, in seconds if a number. The result must be
        of JSON types. A step that touches nothing but the outside world may run again after a crash, until its result
        is stored.

        Example:
            >>> @step(retry=Retry(max_attempts=5))
            ... async def charge(ctx: Ctx, order_id: int) -> str:
            ...     return "receipt"
            >>> charge.name
            'charge'
        """

        def decorate(function: Callable[..., Any]) -> Step[..., Any]:
            return self._keep(
                Step(
                    name=name or function.__name__,
                    function=function,
                    retry=retry or _STEP_RETRY,
                    timeout=_timeout(timeout),
                )
            )

        return decorate if function is None else decorate(function)

    def workflow(self, name: str, *, version: int = 1, concurrency: int = 100) -> _DecorateWorkflow:
        """Define a workflow: an async function of `wf` and at most one input, whose runs survive crashes and restarts.

        Runs keep to the `version` they started with. `concurrency` is how many activations one process runs at a
        time; a run that sleeps or waits takes no place.

        Example:
            >>> @workflow("checkout", version=1)
            ... async def checkout(wf: Wf, order_id: int) -> str:
            ...     await wf.sleep(timedelta(minutes=5))
            ...     return "expired"
            >>> checkout.version
            1
        """

        def decorate(function: Callable[..., Awaitable[Any]]) -> Workflow[Any, Any]:
            return self._keep(
                Workflow(name=name, function=function, version=version, concurrency=_slots(concurrency) or 1)
            )

        return decorate


_free = Decorators()
action = _free.action
worker = _free.worker
subscribe = _free.subscribe
cron = _free.cron
step = _free.step
workflow = _free.workflow


def _payload_type(function: Callable[..., Any]) -> Any:
    items = Parameters.from_function(function).items
    return items[0].codec.annotation if items else Any


def _check_payload(function: Callable[..., Any], declared: Any) -> None:
    """The handler takes a context and one payload, of the token's own type when both name one."""
    items = Parameters.from_function(function).items
    if len(items) != 1:
        raise UsageError(
            f"{function.__name__} must take a context and one payload, not {len(items)} values ({source_of(function)})."
        )
    asked = items[0].codec.annotation
    if asked is not Any and declared is not Any and asked != declared:
        raise UsageError(
            f"{function.__name__} takes {_name(asked)}, but is sent {_name(declared)} ({source_of(function)})."
        )


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))


def _timeout(value: timedelta | float | None) -> timedelta | None:
    return None if value is None else seconds(value, subject="timeout", minimum=timedelta(milliseconds=1))


def _slots(value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not 1 <= value <= 10_000:
        raise UsageError(f"concurrency must be a whole number from 1 to 10000, not {value!r}.")
    return value
