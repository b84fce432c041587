"""Waiting: the one place where a test lets time pass, and only until something it named has happened."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

_T = TypeVar("_T")

_POLL_S = 0.01


async def until(condition: Callable[[], _T | Awaitable[_T]], *, deadline_s: float = 10) -> _T:
    """Return the first true answer of `condition`, a function or a coroutine function, asked every 10 ms.

    Raises:
        AssertionError: `deadline_s` passed first; it names the condition and its last answer.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + deadline_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return cast("_T", answer)
        assert clock() < deadline, f"not within {deadline_s:g} s: {_source(condition)} (last answer: {answer!r})"
        await asyncio.sleep(_POLL_S)


async def passing(seconds: float) -> None:
    """Let time pass: for a fault that lasts so long, never in the hope that something has happened meanwhile."""
    await asyncio.sleep(seconds)


def _source(condition: Callable[[], object]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
