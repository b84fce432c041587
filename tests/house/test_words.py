"""Words that never go in: places of one machine, leftovers, and notes to oneself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.checkout import ROOT, files, name

# Written in halves, because this file is searched too.
BANNED = {
    "a place of one machine": r"/wor[k]/|/roo[t]/|\.pyen[v]\b|/tmp/bas[h]_jobs|file://[/]|/opt/pyp[i]",
    "unfinished": r"\bTOD[O]\b|\bFIXM[E]\b|\bXX[X]\b|\bHAC[K]\b|\bNotImplementedErro[r]\b",
    "debugging": r"\bbreakpoin[t]\(\)|\bpdb\.set_trac[e]\b",
    "an unresolved merge": r"^<{7} |^>{7} ",
    "a promise": r"(?i)\bcoming[ ]soon\b|\bnot yet[ ]implemented\b",
}
LOCK_LINE = re.compile(r"[a-z0-9-]+(\[[a-z,]+\])?==[\w.]+( ; [^@]+)?|\s*#.*|")


@pytest.mark.parametrize("kind", BANNED)
def test_no_file_holds(kind: str) -> None:
    pattern = re.compile(BANNED[kind])
    assert [place for path in files() for place in _found(pattern, path)] == []


def test_the_locks_name_versions_and_no_places() -> None:
    locks = sorted((ROOT / "requirements").glob("*.txt"))
    assert [lock.stem for lock in locks] == ["check", "dev"]
    odd = [(lock.name, line) for lock in locks for line in _lines(lock) if not LOCK_LINE.fullmatch(line)]
    assert odd == []


def _found(pattern: re.Pattern[str], path: Path) -> list[str]:
    return [f"{name(path)}:{number}: {line}" for number, line in enumerate(_lines(path), 1) if pattern.search(line)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:  # an image
        return []
