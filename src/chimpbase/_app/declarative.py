"""The declarative form of a workflow: a list of steps instead of a function.

    act ──► sleep ──► wait ──► parallel ──► branch ──► each          every one of them is a value with an id

The list is compiled to a workflow function (`declarative_run`), so runs, history, retries and recovery are those of any
other workflow. Invariant: ids are unique in a workflow, and are the keys of its journal and of its contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, cast

from chimpbase._app.decorators_workflows import StepDecorator
from chimpbase._app.definitions import Action, Step
from chimpbase._app.tokens import Signal
from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_name
from chimpbase._core.retry import Retry

#: What a step does to the state: the key or field that its result goes into, or a function of state and result.
OnResult = Callable[[Any, Any], Any]
OnTimeout = Literal["fail", "continue"] | Callable[[Any], Any]

_step = StepDecorator().step


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Calls a step, an action, or a function of ctx."""

    id: str
    step: Step[..., Any]
    target: str
    args: Callable[[Any], Any] | None
    into: str | None
    on_result: OnResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Rests for a time, or for one that is worked out from the state."""

    id: str
    duration: timedelta | Callable[[Any], timedelta | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Waits for a signal."""

    id: str
    signal: Signal[Any]
    timeout: timedelta | None
    on_timeout: OnTimeout
    into: str | None
    on_result: OnResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """Runs branches side by side. Each sees the state as it was before; what they do to it is done in their order."""

    id: str
    branches: tuple[tuple[FlowStep, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Goes one way or the other."""

    id: str
    when: Callable[[Any], object]
    then: tuple[FlowStep, ...]
    otherwise: tuple[FlowStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Each:
    """Does the same for every item of a list. An item is the state of its own steps."""

    id: str
    over: Callable[[Any], Iterable[Any]]
    do: tuple[FlowStep, ...]
    takes_result: bool
    key: Callable[[Any], object] | None
    limit: int | None
    into: str | None
    on_result: OnResult | None


FlowStep = Act | Sleep | Wait | Parallel | Branch | Each
_KINDS = (Act, Sleep, Wait, Parallel, Branch, Each)


def act(
    id: str,
    step: Step[..., Any] | Action[..., Any] | Callable[..., Any],
    *,
    args: Callable[[Any], Any] | None = None,
    into: str | None = None,
    on_result: OnResult | None = None,
    retry: Retry | None = None,
) -> FlowStep:
    """Call a step, an action, or a function that takes a ctx, and remember its result under `id`.

    `args` makes its arguments of the state: a tuple is several, anything else is the only one. The result goes `into` a
    key or field of the state, or `on_result(state, result)` answers with the new state. `retry` is that of the step,
    unless given.

    Raises:
        UsageError: one of them is not what it must be.
    """
    check_name("step", id)
    _functions(id, args=args, on_result=on_result)
    _destination(id, into, on_result)
    function = step.function if isinstance(step, Action | Step) else step
    if not callable(function):
        raise UsageError(f"act({id!r}) takes a step, an action or a function, not {step!r:.60}.")
    if isinstance(step, Step):
        made = replace(cast("Step[..., Any]", step), name=id)
    else:
        made = _step(name=id, retry=retry)(function)
    if isinstance(step, Step) and retry is not None:
        raise UsageError(f"act({id!r}): a step has a retry policy of its own; leave out retry=.")
    target = step.name if isinstance(step, Action | Step) else getattr(step, "__name__", id)
    return Act(id=id, step=made, target=target, args=args, into=into, on_result=on_result)


def sleep(id: str, duration: timedelta | float | Callable[[Any], timedelta | float]) -> FlowStep:
    """Rest for a time, in seconds if a number, or for what a function of the state answers.

    Raises:
        UsageError: it is not a duration.
    """
    check_name("step", id)
    fixed = duration if callable(duration) else seconds(duration, subject=f"The duration of sleep({id!r})")
    return Sleep(id=id, duration=fixed)


def wait(
    id: str,
    signal: Signal[Any] | str,
    *,
    timeout: timedelta | float | None = None,
    on_timeout: OnTimeout = "fail",
    into: str | None = None,
    on_result: OnResult | None = None,
) -> FlowStep:
    """Wait for a signal, also one sent before. Its payload goes `into` the state, or `on_result(state, payload)`.

    When `timeout` (seconds if a number) passes first the run fails, or goes on (`on_timeout="continue"`), or goes on
    with the state that `on_timeout(state)` answers.

    Raises:
        UsageError: one of them is not what it must be.
    """
    check_name("step", id)
    _functions(id, on_result=on_result)
    _destination(id, into, on_result)
    if on_timeout not in ("fail", "continue") and not callable(on_timeout):
        raise UsageError(f"wait({id!r}): on_timeout must be 'fail', 'continue' or a function, not {on_timeout!r:.60}.")
    return Wait(
        id=id,
        signal=signal if isinstance(signal, Signal) else Signal(signal),
        timeout=None if timeout is None else seconds(timeout, subject=f"The timeout of wait({id!r})"),
        on_timeout=on_timeout,
        into=into,
        on_result=on_result,
    )


def parallel(id: str, *branches: FlowStep | Sequence[FlowStep]) -> FlowStep:
    """Run branches, each a step or a list of steps, side by side. The first failure ends the others, and is raised.

    Raises:
        UsageError: there is no branch, or one is empty.
    """
    check_name("step", id)
    if not branches:
        raise UsageError(f"parallel({id!r}) needs branches: parallel({id!r}, act(...), [act(...), sleep(...)]).")
    return Parallel(id=id, branches=tuple(_steps(branch, f"parallel({id!r})") for branch in branches))


def branch(
    id: str,
    when: Callable[[Any], object],
    *,
    then: FlowStep | Sequence[FlowStep],
    otherwise: FlowStep | Sequence[FlowStep] = (),
) -> FlowStep:
    """Go one way if `when(state)` is true, and the other if not.

    Raises:
        UsageError: one of them is not what it must be.
    """
    check_name("step", id)
    _functions(id, when=when)
    other = _steps(otherwise, f"branch({id!r})") if otherwise != () else ()
    return Branch(id=id, when=when, then=_steps(then, f"branch({id!r})"), otherwise=other)


def each(
    id: str,
    over: Callable[[Any], Iterable[Any]],
    do: FlowStep | Sequence[FlowStep],
    *,
    key: Callable[[Any], object] | None = None,
    limit: int | None = None,
    into: str | None = None,
    on_result: OnResult | None = None,
) -> FlowStep:
    """Do the same for every item of `over(state)`, `limit` at a time. An item is the state of the steps in `do`.

    What goes `into` the state is the list of what the items have become, in their order; when `do` is one `act` by
    itself, the list of its results, and without `args` it is called with the item. `key` names an item for the history;
    without it its place does.

    Raises:
        UsageError: one of them is not what it must be.
    """
    check_name("step", id)
    _functions(id, over=over, key=key, on_result=on_result)
    _destination(id, into, on_result)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UsageError(f"each({id!r}): limit must be a whole number from 1, not {limit!r:.40}.")
    alone = do if isinstance(do, Act) else None
    if alone is not None and alone.args is None:
        do = replace(alone, args=_the_item)
    return Each(
        id=id,
        over=over,
        do=_steps(do, f"each({id!r})"),
        takes_result=alone is not None and alone.into is None and alone.on_result is None,
        key=key,
        limit=limit,
        into=into,
        on_result=on_result,
    )


def inner_lists(step: FlowStep) -> list[tuple[str, tuple[FlowStep, ...]]]:
    """The lists of steps inside a step, each under the name of its place."""
    match step:
        case Parallel():
            return [(f"branch {n}", steps) for n, steps in enumerate(step.branches)]
        case Branch():
            return [("then", step.then), ("otherwise", step.otherwise)]
        case Each():
            return [("do", step.do)]
        case _:
            return []


def every_step(steps: Sequence[FlowStep]) -> Iterator[FlowStep]:
    """All steps, those inside others too, from the top."""
    for one in steps:
        yield one
        for _, inner in inner_lists(one):
            yield from every_step(inner)


def checked_steps(steps: object, title: str) -> tuple[FlowStep, ...]:
    """The steps of a workflow.

    Raises: UsageError when they are none, or two share an id.
    """
    taken = _steps(steps, title)
    seen: set[str] = set()
    for one in every_step(taken):
        if one.id in seen:
            raise UsageError(f"{title} has two steps with the id {one.id!r}. Rename one: ids are keys of its history.")
        seen.add(one.id)
    return taken


def _steps(given: object, title: str) -> tuple[FlowStep, ...]:
    steps = list(cast("Sequence[object]", given)) if isinstance(given, list | tuple) else [given]
    if not steps:
        raise UsageError(f"{title} has an empty list of steps.")
    for one in steps:
        if not isinstance(one, _KINDS):
            raise UsageError(f"{title} takes act, sleep, wait, parallel, branch and each, not {one!r:.60}.")
    return tuple(cast("list[FlowStep]", steps))


def _functions(id: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None and not callable(value):
            raise UsageError(f"Step {id!r}: {name} must be a function, not {value!r:.60}.")


def _destination(id: str, into: object, on_result: object) -> None:
    if into is not None and on_result is not None:
        raise UsageError(f"Step {id!r}: into and on_result both say what becomes of the result. Give one of them.")
    if into is not None and (not isinstance(into, str) or not into):
        raise UsageError(f"Step {id!r}: into must be the name of a key or field, not {into!r:.60}.")


def _the_item(item: Any) -> Any:
    return (item,)
