"""Guarantees: every row of docs/guarantees.md, complaints.md and parity.md names tests, and those exist."""

from __future__ import annotations

import re

import pytest

from tests.house.checkout import ROOT, functions

ROW = re.compile(r"^\| ([A-Z]?\d+) \|.*\| ([^|]*) \|$", re.MULTILINE)
PAGES = {
    page: {
        row: re.findall(r"`([^`]+)`", tests)
        for row, tests in ROW.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    }
    for page in ("guarantees", "complaints", "parity")
}


@pytest.mark.parametrize(("page", "row"), [(page, row) for page, rows in PAGES.items() for row in rows])
def test_a_row_names_tests_that_exist(page: str, row: str) -> None:
    assert PAGES[page][row]
    assert [name for name in PAGES[page][row] if not _exists(name)] == []


def test_every_complaint_is_answered() -> None:
    assert list(PAGES["complaints"]) == [str(n) for n in range(1, 25)]


def test_the_promises_are_numbered_in_order() -> None:
    numbers = [int(name[1:]) for name in PAGES["guarantees"]]
    assert numbers == sorted(numbers)
    assert {*range(1, 13), 14} <= set(numbers)


def test_every_behaviour_and_defect_of_the_original_is_answered() -> None:
    absent_here = {16, 17, 18}
    wanted = [f"B{n}" for n in range(1, 15)] + [f"D{n}" for n in range(1, 27) if n not in absent_here]
    assert list(PAGES["parity"]) == wanted


def _exists(name: str) -> bool:
    file, _, function = name.partition("::")
    path = ROOT / file
    return path.is_file() and (not function or any(one.name == function for one in functions(path)))
