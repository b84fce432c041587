"""Random workflows whose processes are killed at random statements: each gives and has done the same as undisturbed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.faults.storm_kills import cases_from, slaughter

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": False})


async def test_random_workflows_give_and_do_the_same_whoever_is_killed(dsn: str, tmp_path: Path) -> None:
    """40 cases; `python -m tests.faults.storm_kills --cases N` runs any number."""
    toll = await slaughter(dsn, islice(cases_from(1), 40), seed=1, directory=tmp_path)
    assert toll.wrong == []
    assert toll.kills >= 5
