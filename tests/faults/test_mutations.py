"""Mutations do not rot: every planted bug still finds its place, and changes something that still reads."""

from __future__ import annotations

import ast
import shlex

import pytest

from tests.faults.mutations import MUTATIONS, ROOT, Mutation, mutated, read


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_bug_finds_its_place_and_its_tests_exist(mutation: Mutation) -> None:
    text = mutated(mutation, read(mutation))
    assert text is not None, f"{mutation.old!r} is not in {mutation.path} behind {mutation.after!r}"
    assert text != read(mutation)
    if mutation.path.endswith(".py"):
        ast.parse(text)
    names = [word for word in shlex.split(mutation.tests) if word.startswith("tests/")]
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
