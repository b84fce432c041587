"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import chimpbase

ROOMS = ("chimpbase._app", "chimpbase._core", "chimpbase.http", "chimpbase.testing")
MODULES = sorted(
    module.name for room in ROOMS for module in pkgutil.iter_modules(importlib.import_module(room).__path__, f"{room}.")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    module = importlib.import_module(name)
    names = {**vars(chimpbase), **vars(module)}
    failed = doctest.testmod(module, globs=names, optionflags=doctest.ELLIPSIS).failed
    assert failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder()
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 10
