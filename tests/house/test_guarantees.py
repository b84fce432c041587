"""Guarantees: every promise of docs/guarantees.md and every row of docs/complaints.md names tests, and those exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.checkout import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (G\d+) \|.*\| ([^|]*) \|$", re.MULTILINE)
PROMISES = {name: re.findall(r"`([^`]+)`", tests) for name, tests in ROW.findall(PAGE)}
ANSWER = re.compile(r"^\| (\d+) \|.*\| ([^|]*) \|$", re.MULTILINE)
ANSWERS = ANSWER.findall((ROOT / "docs" / "complaints.md").read_text(encoding="utf-8"))
COMPLAINTS = {row: re.findall(r"`([^`]+)`", tests) for row, tests in ANSWERS}


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_names_tests_that_exist(promise: str) -> None:
    assert PROMISES[promise]
    assert [name for name in PROMISES[promise] if not _exists(name)] == []


@pytest.mark.parametrize("row", COMPLAINTS)
def test_a_complaint_names_tests_that_exist(row: str) -> None:
    assert COMPLAINTS[row]
    assert [name for name in COMPLAINTS[row] if not _exists(name)] == []


def test_every_complaint_is_answered() -> None:
    assert list(COMPLAINTS) == [str(n) for n in range(1, 25)]


def test_the_promises_are_numbered_in_order() -> None:
    numbers = [int(name[1:]) for name in PROMISES]
    assert numbers == sorted(numbers)
    assert {*range(1, 13), 14} <= set(numbers)


def _exists(name: str) -> bool:
    file, _, function = name.partition("::")
    path = ROOT / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return not function or function in functions
