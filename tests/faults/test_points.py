"""Crash points: a part of them for each run of the tests; `make faults` plays many more, `make faults-long` all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.faults.planting import Bomb
from tests.faults.points import Point, Theatre, choose, count, enumerate_points, play, quiet
from tests.faults.scenes import SCENES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

SEED = 20261123
BY_NAME = {scene.name: scene for scene in SCENES}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": False})


@pytest.fixture(scope="module")
async def theatre(server_dsn: str) -> AsyncIterator[Theatre]:
    logger = logging.getLogger("chimpbase")
    before = logger.level
    quiet()
    theatre = Theatre(server_dsn)
    await theatre.open()
    yield theatre
    await theatre.close()
    logger.setLevel(before)  # other tests of this process listen to it


async def test_whatever_dies_at_whatever_statement_each_scene_ends_the_same(theatre: Theatre) -> None:
    points = [
        Point(scene=scene, fault=fault, moment=moment, at=at)
        for scene in SCENES
        for fault in ("kill", "reset")
        for moment in ("before", "unanswered", "answered")
        for at in range(1, 5)
    ]
    chosen = choose(points, len(SCENES) + 4, seed=SEED)
    hall = asyncio.Semaphore(2)

    async def one(point: Point) -> list[str]:
        async with hall:
            return [f"seed {SEED}, {point}: {wrong}" for wrong in await play(theatre, point)]

    verdicts = await asyncio.gather(*(one(point) for point in chosen if point.fault == "kill"))
    # connections are cut in this very process, where one hook at a time is planted
    verdicts += [await one(point) for point in chosen if point.fault != "kill"]
    assert [wrong for verdict in verdicts for wrong in verdict] == []


async def test_the_points_of_a_scene_are_counted_and_a_bomb_goes_off(theatre: Theatre) -> None:
    scene = BY_NAME["finish in the transaction"]
    statements = await count(theatre, scene)
    assert statements >= 3  # begin, the note, and the end of the job in one message with COMMIT
    points = await enumerate_points(theatre, [scene])
    assert len(points) == statements * 6
    bomb = Bomb(kind="reset", moment="unanswered", at=2, labels=scene.labels)
    bomb.armed = True
    bomb.before("begin", ())
    bomb.after("begin", None)
    bomb.before("insert into ledger values (1)", ())
    with pytest.raises(ConnectionResetError):
        bomb.after("insert into ledger values (1)", None)
    bomb.before("commit", ())  # once only


async def test_a_choice_takes_some_of_every_scene(theatre: Theatre) -> None:
    points = await enumerate_points(theatre, SCENES[1:4])
    chosen = choose(points, 6, seed=1)
    assert {point.scene.name for point in chosen} == {scene.name for scene in SCENES[1:4]}
    assert chosen == choose(points, 6, seed=1)
