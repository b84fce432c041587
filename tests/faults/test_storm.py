"""Random workflows whose connections die at random: each gives the same, and has done the same, as undisturbed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.faults.storm import weather

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the storm makes the program say is not what this is about."""
    logger = logging.getLogger("chimpbase")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.mark.parametrize("first", range(1, 301, 50))
async def test_random_workflows_give_and_do_the_same_whatever_dies(first: int) -> None:
    """300 cases; `python -m tests.faults.storm --cases N` runs any number."""
    assert await weather(range(first, first + 50)) == []
