"""`workflow`, of a function or of a list of steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from chimpbase._app.contracts import contract_of, hash_of
from chimpbase._app.declarative import FlowStep, Wait, checked_steps, every_step
from chimpbase._app.declarative_workflow import DeclaredWorkflow, compiled
from chimpbase._app.decorator_arguments import limits_of, migrations_of, slots_of
from chimpbase._app.decorators_workflows import DecorateWorkflow, WorkflowDecorator
from chimpbase._app.definitions import Workflow
from chimpbase._app.old_run import OldRun
from chimpbase._app.workflow_code import WorkflowCode
from chimpbase._core.errors import UsageError
from chimpbase._core.limits import Limits

T = TypeVar("T")
R = TypeVar("R")
_Migrate = Mapping[int, Callable[[OldRun], None]]


class DeclarativeDecorator(WorkflowDecorator):
    """`workflow`."""

    @overload
    def workflow(
        self,
        name: str,
        *,
        version: int = ...,
        concurrency: int = ...,
        limits: Limits | None = ...,
        migrate: _Migrate | None = ...,
    ) -> DecorateWorkflow: ...
    @overload
    def workflow(
        self,
        name: str,
        *,
        steps: Sequence[FlowStep],
        initial: Callable[[T], R],
        version: int = ...,
        concurrency: int = ...,
        limits: Limits | None = ...,
        migrate: _Migrate | None = ...,
    ) -> Workflow[T, R]: ...
    @overload
    def workflow(
        self,
        name: str,
        *,
        steps: Sequence[FlowStep],
        initial: Callable[[], R],
        version: int = ...,
        concurrency: int = ...,
        limits: Limits | None = ...,
        migrate: _Migrate | None = ...,
    ) -> Workflow[None, R]: ...
    @overload
    def workflow(
        self,
        name: str,
        *,
        steps: Sequence[FlowStep],
        initial: None = None,
        version: int = ...,
        concurrency: int = ...,
        limits: Limits | None = ...,
        migrate: _Migrate | None = ...,
    ) -> Workflow[Any, Any]: ...
    def workflow(
        self,
        name: str,
        *,
        steps: Sequence[FlowStep] | None = None,
        initial: Callable[..., Any] | None = None,
        version: int = 1,
        concurrency: int = 100,
        limits: Limits | None = None,
        migrate: _Migrate | None = None,
    ) -> Any:
        """Define a workflow: an async function of `wf` and at most one input, whose runs survive crashes and restarts.

        Runs keep to the `version` they started with. `concurrency` is how many activations one process runs at a
        time, `limits` are for the activations in all processes; a run that sleeps or waits takes no place. `migrate`
        moves the runs of older versions to this one, when they next wake: {1: function} is given an `OldRun` to change.

        With `steps` it is a list of `act`, `sleep`, `wait`, `parallel`, `branch` and `each`, and decorates no function.
        `initial` makes the state of the input; without it the input is the state. Its functions must be pure. The
        result of a run is its last state.

        Example:
            >>> @workflow("checkout", version=1)
            ... async def checkout(wf: Wf, order_id: int) -> str:
            ...     await wf.sleep(timedelta(minutes=5))
            ...     return "expired"
            >>> checkout.version
            1
        """
        if steps is None:
            if initial is not None:
                raise UsageError(f"workflow {name!r}: initial= belongs to steps=; a function makes its state itself.")
            return super().workflow(name, version=version, concurrency=concurrency, limits=limits, migrate=migrate)
        frame = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        title = f"workflow {name!r} ({place})"
        taken = checked_steps(steps, title)
        if initial is not None and not callable(initial):
            raise UsageError(f"{title}: initial must be a function of the input, not {initial!r:.60}.")
        function = compiled(taken, initial, title=title)
        made: DeclaredWorkflow[Any, Any] = DeclaredWorkflow(
            name=name,
            function=function,
            version=version,
            concurrency=slots_of(concurrency) or 1,
            limits=limits_of(limits),
            migrate=migrations_of(migrate),
            steps=taken,
            place=place,
        )
        vars(function)["__chimpbase_code__"] = _code(made)
        return self._keep(made)


def _code(workflow: DeclaredWorkflow[Any, Any]) -> WorkflowCode:
    """What the code of other workflows is read for, the list says: its contract, and the names of what it does."""
    every = list(every_step(workflow.steps))
    waits = {f"wait:{one.signal.name}" for one in every if isinstance(one, Wait)}
    names = {"sleep"} | {one.id for one in every} | waits
    return WorkflowCode(hash_of(contract_of(workflow)), frozenset(names), ())
