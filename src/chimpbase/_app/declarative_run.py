"""Runs a list of steps with the verbs of Wf, as a workflow function written by hand would.

The state is worked out anew in each activation, from the input and the remembered results, so the functions of the list
must be pure: state and result in, state out.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec

from chimpbase._app.declarative import Act, Branch, Each, FlowStep, Parallel, Sleep, Wait
from chimpbase._core.errors import StepFailed, UsageError

if TYPE_CHECKING:
    from chimpbase._app.wf import Wf

#: What a step does to the state. Kept apart from the state, so that branches can do it to the same one in order.
Update = Callable[[Any], Any]
_TIMED_OUT: Any = object()


async def run_steps(wf: Wf, steps: Sequence[FlowStep], state: Any) -> Any:
    """Run the steps of a workflow; the state at the end. It is what `wf.state` shows on the way."""
    wf.state = state
    for one in steps:
        for update in await _perform(wf, one, state):
            state = update(state)
        wf.state = state
    return state


async def _walk(wf: Wf, steps: Sequence[FlowStep], state: Any) -> tuple[Any, list[Update]]:
    """Run steps on a copy of the state; what has become of it, and how."""
    local, done = copy.deepcopy(state), list[Update]()
    for one in steps:
        updates = await _perform(wf, one, local)
        for update in updates:
            local = update(local)
        done += updates
    return local, done


async def _perform(wf: Wf, step: FlowStep, state: Any) -> list[Update]:
    match step:
        case Act():
            return _updates(step, await _call(wf, step, state))
        case Sleep(duration=duration):
            await wf.sleep(duration(state) if callable(duration) else duration)
            return []
        case Wait():
            return await _wait(wf, step)
        case Parallel(branches=branches):
            walked = await wf.gather(*(_walk(wf, steps, state) for steps in branches))
            return [update for _, updates in walked for update in updates]
        case Branch():
            _, updates = await _walk(wf, step.then if step.when(state) else step.otherwise, state)
            return updates
        case Each():
            return _updates(step, await _each(wf, step, state))


async def _call(wf: Wf, step: Act, state: Any) -> Any:
    given = () if step.args is None else step.args(state)
    return await step.step(wf, *(given if isinstance(given, tuple) else (given,)))


async def _wait(wf: Wf, step: Wait) -> list[Update]:
    payload = await wf.wait(step.signal, timeout=step.timeout, default=_TIMED_OUT)
    if payload is not _TIMED_OUT:
        return _updates(step, payload)
    if step.on_timeout == "fail":
        raise StepFailed(step.id, f"no signal {step.signal.name!r} came within {step.timeout}")
    return [partial(_changed, step.on_timeout)] if callable(step.on_timeout) else []


async def _each(wf: Wf, step: Each, state: Any) -> list[Any]:
    async def one(item: Any) -> Any:
        if step.takes_result:
            (only,) = step.do
            return await _call(wf, cast("Act", only), item)
        became, _ = await _walk(wf, step.do, item)
        return became

    return await wf.map(one, step.over(state), key=step.key, limit=step.limit)


def _updates(step: Act | Wait | Each, result: Any) -> list[Update]:
    if step.on_result is not None:
        return [partial(_changed, step.on_result, result=result)]
    if step.into is not None:
        return [partial(_put, step.id, step.into, result)]
    return []


def _changed(function: Callable[..., Any], state: Any, **result: Any) -> Any:
    """What a function makes of the state; one that answers with nothing has changed it in place."""
    became = function(state, *result.values())
    return state if became is None else became


def _put(id: str, name: str, result: Any, state: Any) -> Any:
    """The state with one key or field more."""
    if isinstance(state, Mapping):
        return {**cast("Mapping[str, Any]", state), name: result}
    try:
        if isinstance(state, msgspec.Struct):
            return msgspec.structs.replace(state, **{name: result})
        if dataclasses.is_dataclass(state) and not isinstance(state, type):
            return dataclasses.replace(state, **{name: result})
    except TypeError as error:
        raise UsageError(f"Step {id!r} cannot put its result into {name!r}: {error}.") from error
    raise UsageError(
        f"Step {id!r} cannot put its result into {name!r} of {type(state).__name__}: the state is no dict, no "
        "dataclass and no Struct. Use on_result."
    )
