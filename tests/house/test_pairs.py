"""Pairs: a shelf is one `.py` and one `.sql`, with the same names in the same order."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house.checkout import STORE, files, functions, name, tree

NAME = re.compile(r"^-- name: (\S+)$", re.MULTILINE)

STATEMENT_FILES = [path for path in files() if path.parent == STORE and path.suffix == ".sql"]
SHELVES = [path for path in files() if path.parent == STORE and path.suffix == ".py" and path.name != "__init__.py"]


def test_each_shelf_has_its_statements() -> None:
    assert {path.stem for path in SHELVES} == {path.stem for path in STATEMENT_FILES}


@pytest.mark.parametrize("path", STATEMENT_FILES, ids=name)
def test_each_statement_is_run_by_the_function_of_its_name_in_the_same_order(path: Path) -> None:
    statements = NAME.findall(path.read_text(encoding="utf-8"))
    assert _functions_with_statements(path.with_suffix(".py")) == [(statement, [statement]) for statement in statements]


@pytest.mark.parametrize("path", SHELVES, ids=name)
def test_statements_are_not_used_outside_functions(path: Path) -> None:
    inside = [use for function in functions(path) for use in _uses(function)]
    assert sorted(inside) == sorted(_uses(tree(path)))


def _functions_with_statements(path: Path) -> list[tuple[str, list[str]]]:
    found = [node for node in tree(path).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(function.name, uses) for function in found if (uses := _uses(function))]


def _uses(node: ast.AST) -> list[str]:
    """The statements `_SQL.name` or `_SQL["name"]` below a node."""
    uses: list[str] = []
    for child in ast.walk(node):
        match child:
            case ast.Attribute(value=ast.Name(id="_SQL"), attr=statement):
                uses.append(statement)
            case ast.Subscript(value=ast.Name(id="_SQL"), slice=ast.Constant(value=str(statement))):
                uses.append(statement)
            case _:
                pass
    return uses
