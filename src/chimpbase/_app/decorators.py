"""The decorators. Each returns a pure definition; nothing is registered until an App is given it.

Every one takes async functions, whose context is `Ctx` (in a workflow `Wf`), and plain functions, whose context is
`SyncCtx` and which run in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from chimpbase._app.ctx import Ctx
from chimpbase._app.decorator_arguments import Keeper
from chimpbase._app.decorators_broadcast import BroadcastDecorator
from chimpbase._app.decorators_cron import CronDecorator
from chimpbase._app.decorators_declarative import DeclarativeDecorator
from chimpbase._app.decorators_jobs import SubscribeDecorator, WorkerDecorator
from chimpbase._app.decorators_streams import ConsumerDecorator
from chimpbase._app.decorators_workflows import StepDecorator
from chimpbase._app.definitions import Action
from chimpbase._app.sync import SyncCtx

P = ParamSpec("P")
R = TypeVar("R")


class _DecorateAction(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]], /) -> Action[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[SyncCtx, P], R], /) -> Action[P, R]: ...


class Decorators(
    WorkerDecorator,
    SubscribeDecorator,
    BroadcastDecorator,
    CronDecorator,
    ConsumerDecorator,
    StepDecorator,
    DeclarativeDecorator,
    Keeper,
):
    """All decorators. An App is one too: there they also register."""

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


_free = Decorators()
action = _free.action
consumer = _free.consumer
on_broadcast = _free.on_broadcast
worker = _free.worker
subscribe = _free.subscribe
cron = _free.cron
step = _free.step
workflow = _free.workflow
