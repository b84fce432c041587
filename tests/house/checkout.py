"""Checkout: what files this repository has, and their syntax trees, for the tests of the house."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "chimpbase"
STORE = SOURCE / "_store"

_NOT_OURS = {"__pycache__", "build", "dist"}
_OURS_THOUGH_HIDDEN = {".ci", ".gitignore"}


@cache
def files() -> tuple[Path, ...]:
    """Every file that is, or would be, under version control."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:  # a tarball, or a machine without git
        paths = [path for path in ROOT.rglob("*") if not _is_foreign(path.relative_to(ROOT))]
    return tuple(sorted(path for path in paths if path.is_file()))


def python_files(*rooms: str) -> list[Path]:
    """The Python files below the given directories, named from the root of the checkout."""
    roots = [ROOT / room for room in rooms]
    return [path for path in files() if path.suffix == ".py" and any(root in path.parents for root in roots)]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_foreign(path: Path) -> bool:
    return any(part in _NOT_OURS or (part.startswith(".") and part not in _OURS_THOUGH_HIDDEN) for part in path.parts)
