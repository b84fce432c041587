"""Sizes: what outgrows these is two things under one name."""

from __future__ import annotations

import ast

from tests.house.checkout import functions, name, python_files, tree

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60
MAX_PUBLIC_METHODS = 15
#: What hangs on a handler's context is the list of primitives, and a handler has one context.
WIDE = {"Ctx"}

FILES = python_files("src", "tests", "examples")


def test_no_file_is_longer_than_400_lines() -> None:
    long = {name(path): lines for path in FILES if (lines := len(path.read_bytes().splitlines())) > MAX_FILE_LINES}
    assert long == {}


def test_no_function_body_is_longer_than_60_lines() -> None:
    long = {
        f"{name(path)}:{function.lineno} {function.name}": lines
        for path in FILES
        for function in functions(path)
        if (lines := _body_lines(function)) > MAX_BODY_LINES
    }
    assert long == {}


def test_no_class_has_more_than_15_public_methods() -> None:
    wide = {
        f"{name(path)}:{node.lineno} {node.name}": len(methods)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and node.name not in WIDE
        and len(methods := _public_methods(node)) > MAX_PUBLIC_METHODS
    }
    assert wide == {}


def test_a_body_is_counted_without_signature_and_docstring() -> None:
    function = ast.parse('def f(\n  a,\n  b,\n):\n  """One\n  two."""\n  a()\n\n  b()\n').body[0]
    assert isinstance(function, ast.FunctionDef)
    assert _body_lines(function) == 3


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _public_methods(node: ast.ClassDef) -> set[str]:
    methods = (item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
    return {method for method in methods if not method.startswith("_")}
