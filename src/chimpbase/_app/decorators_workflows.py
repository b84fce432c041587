"""The decorators of workflows and their steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from chimpbase._app.ctx import Ctx
from chimpbase._app.decorator_arguments import Keeper, flag_of, limits_of, migrations_of, retry_of, slots_of, timeout_of
from chimpbase._app.definitions import Step, Workflow
from chimpbase._app.old_run import OldRun
from chimpbase._app.sync import SyncCtx
from chimpbase._app.wf import Wf
from chimpbase._core.limits import Limits
from chimpbase._core.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_STEP_RETRY = Retry(max_attempts=3)


class _DecorateStep(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[SyncCtx, P], R], /) -> Step[P, R]: ...


class DecorateWorkflow(Protocol):
    """What `workflow` answers with, to be put on a function."""

    @overload
    def __call__(self, function: Callable[[Wf, T], Coroutine[Any, Any, R]], /) -> Workflow[T, R]: ...
    @overload
    def __call__(self, function: Callable[[Wf], Coroutine[Any, Any, R]], /) -> Workflow[None, R]: ...


class StepDecorator(Keeper):
    """`step`."""

    @overload
    def step(self, function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def step(self, function: Callable[Concatenate[SyncCtx, P], R], /) -> Step[P, R]: ...
    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        transaction: bool = True,
        durable: Literal["each", "lazy"] = "each",
        on_exhausted: Literal["fail", "pause"] = "fail",
        was: str | None = None,
    ) -> _DecorateStep: ...
    def step(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | float | None = None,
        transaction: bool = True,
        durable: Literal["each", "lazy"] = "each",
        on_exhausted: Literal["fail", "pause"] = "fail",
        was: str | None = None,
    ) -> Any:
        """Define a workflow step. What it writes through `ctx` and the memory of its result commit together.

        `retry` defaults to three attempts; `timeout` is for one attempt, in seconds if a number. The result must be
        of JSON types. A step that touches nothing but the outside world may run again after a crash, until its result
        is stored.

        With `transaction=False` each verb of ctx commits by itself, for long work; the step is then at least once. With
        `durable="lazy"` the memory of a cheap step waits for the next one's. With `on_exhausted="pause"` a step that
        used up its attempts pauses the run instead of failing; resumed, it tries again. `was` is its former name.

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
                    retry=retry_of(retry, _STEP_RETRY),
                    timeout=timeout_of(timeout),
                    transaction=flag_of(transaction, subject="transaction"),
                    durable=durable,
                    on_exhausted=on_exhausted,
                    was=was,
                )
            )

        return decorate if function is None else decorate(function)


class WorkflowDecorator(Keeper):
    """`workflow`."""

    def workflow(
        self,
        name: str,
        *,
        version: int = 1,
        concurrency: int = 100,
        limits: Limits | None = None,
        migrate: Mapping[int, Callable[[OldRun], None]] | None = None,
    ) -> DecorateWorkflow:
        """Define a workflow: an async function of `wf` and at most one input, whose runs survive crashes and restarts.

        Runs keep to the `version` they started with. `concurrency` is how many activations one process runs at a
        time, `limits` are for the activations in all processes; a run that sleeps or waits takes no place. `migrate`
        moves the runs of older versions to this one, when they next wake: {1: function} is given an `OldRun` to change.

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
                Workflow(
                    name=name,
                    function=function,
                    version=version,
                    concurrency=slots_of(concurrency) or 1,
                    limits=limits_of(limits),
                    migrate=migrations_of(migrate),
                )
            )

        return decorate
