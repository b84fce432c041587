"""Exports: the public door shows what it means to show, and explains each name."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import chimpbase
from tests.house.checkout import ROOT, SOURCE

SNAPSHOT = ROOT / "tests" / "house" / "exports.txt"
EDGES = sorted(
    path.parent.name for path in SOURCE.glob("[a-z]*/__init__.py") if "__all__" in path.read_text(encoding="utf-8")
)


def test_the_public_names_are_those_in_the_snapshot() -> None:
    # A name more or less is news for users: it belongs in the snapshot and in CHANGELOG.md.
    assert sorted(chimpbase.__all__) == SNAPSHOT.read_text(encoding="utf-8").split()


def test_what_is_visible_is_what_is_exported() -> None:
    exported = set(chimpbase.__all__)
    visible = {
        name
        for name, value in vars(chimpbase).items()
        if not name.startswith("_") and (name in exported or not inspect.ismodule(value))
    }
    assert visible - {"annotations"} == exported


def test_every_public_name_is_explained() -> None:
    assert _unexplained(chimpbase) == []


@pytest.mark.parametrize("edge", EDGES)
def test_every_public_name_of_an_edge_is_explained(edge: str) -> None:
    module = __import__(f"chimpbase.{edge}", fromlist=["__all__"])
    assert _unexplained(module) == []


def test_every_public_method_is_explained() -> None:
    classes = [value for name in chimpbase.__all__ if inspect.isclass(value := getattr(chimpbase, name))]
    methods = [
        f"{owner.__name__}.{name}"
        for owner in classes
        for name, value in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property | classmethod))
        if not inspect.getdoc(value)
    ]
    assert methods == []


def _unexplained(module: ModuleType) -> list[str]:
    """Names without a docstring of their own; a value that is no class or function is explained by its type."""
    return [
        name
        for name in module.__all__
        if callable(value := getattr(module, name)) and getattr(value, "__module__", "").startswith("chimpbase")
        if not inspect.getdoc(value)
    ]
