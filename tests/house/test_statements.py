"""Statements: what reaches the server is text that was written, not text that was put together."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.checkout import SOURCE, name, python_files, tree

# Opening a database and changing its shape need names where SQL takes no parameters.
MAY_COMPOSE = {SOURCE / "_schema", SOURCE / "_pg"}
# Filters of documents are data, and their statements are put together of its own constants: an oracle and a corpus of
# injections watch it, in tests/app/test_collection_filters.py.
COMPOSER = SOURCE / "_store" / "documents.py"

VERBS = {"execute", "execute_script", "executemany", "fetch", "fetch_one", "fetch_value", "fetchrow", "fetchval"}


def test_no_statement_is_put_together_from_strings() -> None:
    paths = [
        path for path in python_files("src", "examples") if path != COMPOSER and not MAY_COMPOSE & set(path.parents)
    ]
    assert [place for path in paths for place in _composed(path)] == []


def test_a_composed_statement_is_found() -> None:
    calls = [
        'db.fetch(f"select {x}")',
        'db.execute("select %s" % x)',
        'db.execute("select {}".format(x))',
        'db.fetch_one("a" + x)',
        'db.fetch_value(sql := f"{x}")',
    ]
    assert [len(_composed_calls(ast.parse(call))) for call in calls] == [1] * len(calls)
    assert _composed_calls(ast.parse('db.fetch("select $1" " limit 1", x); ctx.log.info(f"{x}")')) == []


def _composed(path: Path) -> list[str]:
    return [f"{name(path)}:{call.lineno} {ast.unparse(call)}" for call in _composed_calls(tree(path))]


def _composed_calls(root: ast.AST) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(root)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in VERBS
        and node.args
        and _is_composed(node.args[0])
    ]


def _is_composed(expression: ast.expr) -> bool:
    match expression:
        case ast.JoinedStr(values=values):
            return any(isinstance(value, ast.FormattedValue) for value in values)
        case ast.BinOp(op=ast.Mod() | ast.Add()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
        case ast.NamedExpr(value=value):
            return _is_composed(value)
        case _:
            return False
