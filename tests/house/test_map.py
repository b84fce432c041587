"""The map: every file that ARCHITECTURE.md sends its reader to is there."""

from __future__ import annotations

import re

import pytest

from tests.house.checkout import ROOT, SOURCE

NAMED = sorted(
    set(
        re.findall(
            r"`((?:_[a-z]+|cli|http|testing|tests|bench|docs)/[\w/*.]+)`",
            (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"),
        )
    )
)


def test_the_map_names_files() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", NAMED)
def test_a_file_on_the_map_is_there(name: str) -> None:
    assert list(SOURCE.glob(name)) + list(ROOT.glob(name)) != []
