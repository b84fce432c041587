"""Bad input inside workflows: every verb of wf takes it or raises an error of ours, and no run is stuck for it."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Update, Wf
from chimpbase._core.errors import ChimpbaseError
from tests.faults.bad_values import OTHERS, STRINGS, fitting, verbs
from tests.running import Start
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

#: What fits, where another thing fits than in the verbs of a ctx.
FITTING: dict[str, Any] = {
    "function": lambda *_: None,
    "handler": lambda given: given,
    "items": [],
    "duration": 0.0,
    "update": Update("fix", str, str),
    "signal": "go",
    "workflow": "tries",
    "instant": datetime(2030, 1, 1, tzinfo=UTC),
}
#: These are called by a step, not by a user; or with a step.
_OURS = {"run_step", "undo"}


def cases() -> list[tuple[str, dict[str, Any], tuple[Any, ...]]]:
    """A verb, its arguments by name, and those behind each other, one of which is bad."""
    found: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = []
    for verb, function, parameters in verbs(Wf):
        if verb in _OURS:
            continue
        given = fitting(parameters, FITTING)
        many = [one for one in inspect.signature(function).parameters.values() if one.kind is one.VAR_POSITIONAL]
        for value in (*STRINGS[::4], *OTHERS):
            found += [(verb, {**given, name: value}, ()) for name in parameters if name not in {"args", "kwargs"}]
            found += [(verb, given, (value,)) for one in many if one.name == "branches"]
            found += [(verb, {"arm": value}, ())] if verb == "select" else []
    return found


async def test_a_bad_value_is_refused_by_us_or_taken_and_no_run_is_stuck_for_it(
    start: Start, outside: asyncpg.Connection
) -> None:
    tried, wrong = cases(), list[str]()
    app = App("bad-workflows")

    @app.workflow("tries")
    async def tries(wf: Wf, case: int) -> None:
        verb, by_name, behind = tried[case - 1000]
        try:
            await _finished(getattr(wf, verb)(*behind, **by_name))
        except ChimpbaseError:
            return
        except Exception as error:
            wrong.append(f"wf.{verb}({by_name}{behind}): {type(error).__name__}: {error!s:.120}")

    assert len(tried) > 500
    async with start(app):
        async with app.transaction() as ctx:
            for case in range(len(tried)):
                await ctx.workflow.start("tries", 1000 + case, id=f"case {case}")
        await until(lambda: _none_moves(outside), deadline_s=90)
    states = await outside.fetch("select state, id, error from chimpbase.run where id like 'case %'")
    stuck = [row for row in states if row["state"] not in {"completed", "failed", "waiting", "sleeping"}]
    assert "\n".join(sorted(set(wrong))) == ""
    assert [(row["id"], row["state"], row["error"], tried[int(row["id"].split()[1])]) for row in stuck] == []


async def _finished(answer: Any) -> None:
    if hasattr(answer, "__aenter__"):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(answer)
    elif inspect.isawaitable(answer):
        await answer


async def _none_moves(outside: asyncpg.Connection) -> bool:
    await asyncio.sleep(0)
    return not await outside.fetchval("select exists (select from chimpbase.job)")
