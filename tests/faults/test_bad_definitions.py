"""Bad definitions: whatever a token, a decorator or an outcome is given, it takes it or says at once what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

import chimpbase
from chimpbase._core.errors import ChimpbaseError
from tests.faults.bad_values import OTHERS, STRINGS


async def handler(ctx: Any, given: Any = None) -> None: ...


#: What is made by the program, or is no call of the user's.
MADE_BY_US = {
    *("Callback", "Child", "Ctx", "DeadJob", "Entry", "Explanation", "Handle", "HistoryEntry", "Job", "JobError"),
    *("JobHandle", "JobProgress", "JobStatus", "Occurrence", "OldRun", "Run", "Runtime", "Schedule", "SyncCtx"),
    *("SyncJobHandle", "Wf", "EnqueueOptions", "errors"),
}
#: Arguments that need a value, or another one than the argument of that name elsewhere.
FITTING: dict[str, Any] = {
    "name": "name",
    "type": str,
    "result": str,
    "expression": "0 0 1 1 *",
    "reason": "because",
    "for_": timedelta(seconds=1),
    "limit": 3,
    "per": timedelta(seconds=1),
    "stream": "log",
    "event": "happened",
    "queue": "note",
    "cadence": "0 0 1 1 *",
    "interval": timedelta(hours=1),
}
#: What is given beside the bad value, for without it nobody would look.
BESIDE: dict[str, dict[str, Any]] = {"cron": {"cadence": "0 0 1 1 *"}}
#: Arguments of which anything is right, or which only the type checker can tell.
ANYTHING = {"payload", "type", "result", "register", "function", "value"}


def made() -> Iterator[tuple[str, Callable[..., Any], bool]]:
    """Everything public that a user calls before the app runs, and whether it decorates a handler."""
    for name in chimpbase.__all__:
        if name not in MADE_BY_US:
            call = getattr(chimpbase, name)
            yield name, call, inspect.isroutine(call) and name != "every"


@pytest.mark.parametrize(("name", "call", "decorates"), [*made()], ids=[name for name, _, _ in made()])
def test_a_bad_argument_is_taken_or_refused_by_us(name: str, call: Callable[..., Any], decorates: bool) -> None:
    parameters = inspect.signature(call).parameters
    needed = {
        one.name: FITTING[one.name]
        for one in parameters.values()
        if one.default is one.empty and one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD}
    }
    needed |= BESIDE.get(name, {})
    wrong: list[str] = []
    for parameter in parameters.values():
        if parameter.name in ANYTHING or parameter.kind is parameter.POSITIONAL_ONLY:
            continue
        for value in (*STRINGS, *OTHERS):
            given = {**needed} if parameter.kind is parameter.VAR_POSITIONAL else {**needed, parameter.name: value}
            more = (value,) if parameter.kind is parameter.VAR_POSITIONAL else ()
            try:
                built = call(*more, **given)
                if decorates:
                    built(handler)
                if type(value) is object and parameter.name not in ANYTHING:
                    wrong.append(f"{name}({parameter.name}={value!r:.40}) was taken")
            except ChimpbaseError:
                pass
            except Exception as error:
                wrong.append(f"{name}({parameter.name}={value!r:.40}): {type(error).__name__}: {error!s:.120}")
    assert "\n".join(wrong) == ""


def test_every_public_name_is_tried_or_made_by_us() -> None:
    assert set(chimpbase.__all__) >= MADE_BY_US
