"""Chaos: a small fight for each run of the tests; `make faults` fights all, for ten minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chimpbase._pg.embedded import EmbeddedServer
from tests.faults.battle import fight, pairs
from tests.faults.chaos import FAULTS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(170)]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": False})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """With an honest disk, which is what crashes are about."""
    server = await EmbeddedServer.start(tmp_path / "data")
    yield server
    await server.stop()


@pytest.mark.parametrize(("number", "at_least"), [("F1+F4", "kills"), ("F5", "crashes")])
async def test_nothing_is_lost_doubled_or_stuck(
    server: EmbeddedServer, tmp_path: Path, number: str, at_least: str
) -> None:
    result = await fight(number.split("+"), server=server, directory=tmp_path, seed=7, jobs=200, seconds=6, size=2)
    assert result.wrong == []
    assert result.hits[at_least] > 0


def test_pairs_are_drawn_by_their_seed_and_can_happen_together() -> None:
    drawn = pairs(20, seed=3)
    assert drawn == pairs(20, seed=3)
    for one, two in drawn:
        assert len({FAULTS[one].network, FAULTS[two].network} - {""}) <= 1
