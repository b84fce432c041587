"""The decorators of workflows and their steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from chimpbase._app.ctx import Ctx
from chimpbase._app.decorator_arguments import Keeper, limits_of, slots_of, timeout_of
from chimpbase._app.definitions import Step, Workflow
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


class _DecorateWorkflow(Protocol):
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
                    timeout=timeout_of(timeout),
                )
            )

        return decorate if function is None else decorate(function)


class WorkflowDecorator(Keeper):
    """`workflow`."""

    def workflow(
        self, name: str, *, version: int = 1, concurrency: int = 100, limits: Limits | None = None
    ) -> _DecorateWorkflow:
        """Define a workflow: an async function of `wf` and at most one input, whose runs survive crashes and restarts.

        Runs keep to the `version` they started with. `concurrency` is how many activations one process runs at a
        time, `limits` are for the activations in all processes; a run that sleeps or waits takes no place.

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
                )
            )

        return decorate
