"""Errors: the tree drawn at the top of `_core/errors.py` is the tree of the classes."""

from __future__ import annotations

import inspect
import re

from chimpbase._core import errors

LINE = re.compile(r"^    (?P<stem>[│ ]*(?:[├└]── )?)(?P<name>\w+)(?:\s{2,}\S.*)?$")


def test_the_drawn_tree_is_the_real_one() -> None:
    assert _drawn() == _real()


def test_every_error_says_what_it_means() -> None:
    classes = [error for _, error in inspect.getmembers(errors, _is_ours)]
    assert [error.__name__ for error in classes if not inspect.getdoc(error)] == []


def _drawn() -> dict[str, str | None]:
    """Each drawn class and its parent."""
    parents: dict[str, str | None] = {}
    line_of_descent: list[str] = []
    assert errors.__doc__
    for text in errors.__doc__.splitlines():
        if line := LINE.match(text):
            depth = len(line["stem"]) // 4
            parents[line["name"]] = line_of_descent[depth - 1] if depth else None
            line_of_descent[depth:] = [line["name"]]
    return parents


def _real() -> dict[str, str | None]:
    classes = [error for _, error in inspect.getmembers(errors, _is_ours)]
    return {error.__name__: None if error is errors.ChimpbaseError else error.__mro__[1].__name__ for error in classes}


def _is_ours(value: object) -> bool:
    return inspect.isclass(value) and value.__module__ == errors.__name__ and issubclass(value, BaseException)
