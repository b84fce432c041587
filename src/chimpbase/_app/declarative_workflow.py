"""A workflow that is a list of steps, compiled to the function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from chimpbase._app.declarative import FlowStep
from chimpbase._app.declarative_run import run_steps
from chimpbase._app.definitions import Workflow
from chimpbase._app.wf import Wf
from chimpbase._core.errors import UsageError
from chimpbase._core.parameters import Parameters

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class DeclaredWorkflow(Workflow[T, R], Generic[T, R]):
    """A workflow given as steps. `place` is the `file:line` where it stands."""

    steps: tuple[FlowStep, ...]
    place: str

    @property
    def source(self) -> str:
        return self.place


def compiled(steps: tuple[FlowStep, ...], initial: Callable[..., Any] | None, *, title: str) -> Callable[..., Any]:
    """The workflow function behind steps: its input is that of `initial`, and its result the state at the end."""
    if initial is None:

        async def from_input(wf: Wf, input: Any) -> Any:
            return await run_steps(wf, steps, {} if input is None else input)

        return from_input
    parameters = Parameters.from_function(initial, skip=0)
    if len(parameters.items) > 1:
        raise UsageError(f"{title}: initial must take one input, or none, not {len(parameters.items)} values.")

    async def alone(wf: Wf) -> Any:
        return await run_steps(wf, steps, initial())

    async def begun(wf: Wf, input: Any) -> Any:
        return await run_steps(wf, steps, initial(input))

    function: Callable[..., Any] = begun if parameters.items else alone
    annotations: dict[str, Any] = {"wf": Wf, "return": parameters.returns}
    for item in parameters.items:
        annotations["input"] = item.annotation
    function.__annotations__ = annotations
    return function
