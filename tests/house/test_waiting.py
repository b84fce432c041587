"""Waiting: a test waits for something, never for a while."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.checkout import ROOT, name, python_files, tree
from tests.waiting import until

# The one that polls, and the one where nothing else can be waited for.
MAY_SLEEP = {ROOT / "tests" / "waiting.py"}


def test_no_test_sleeps() -> None:
    tests = [
        path for path in python_files("tests", "examples") if "tests" in path.parts or path.name.startswith("test_")
    ]
    assert [sleep for path in tests if path not in MAY_SLEEP for sleep in _sleeps(path)] == []


@pytest.mark.anyio
async def test_until_returns_the_first_true_answer() -> None:
    answers = iter([None, 0, "yes", "later"])

    async def ask() -> object:
        return next(answers)

    assert await until(ask) == "yes"


@pytest.mark.anyio
async def test_until_names_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.02 s: .*lambda: 0.* \(last answer: 0\)"):
        await until(lambda: 0, deadline_s=0.02)


def _sleeps(path: Path) -> list[str]:
    return [
        f"{name(path)}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and _is_sleep(node.func) and not _is_yield(node)
    ]


def _is_sleep(function: ast.expr) -> bool:
    match function:
        case ast.Attribute(value=ast.Name(id="asyncio" | "anyio" | "time"), attr="sleep") | ast.Name(id="sleep"):
            return True
        case _:
            return False


def _is_yield(call: ast.Call) -> bool:
    match call.args:
        case [ast.Constant(value=0)]:
            return True
        case _:
            return False
