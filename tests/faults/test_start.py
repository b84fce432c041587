"""A start whose connections end, one at each of its statements: it goes on, and what it declares is there once."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from chimpbase._pg.losses import through_losses
from chimpbase.errors import Unreachable
from tests.app.everywhere import everywhere
from tests.faults.planting import Bomb, planted
from tests.faults.victim import PACE

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

#: All that a start declares.
_DECLARED = """
    select 'queue', name from chimpbase.queue union all
    select 'subscription', name from chimpbase.subscription union all
    select 'schedule', name from chimpbase.schedule union all
    select 'consumer', name from chimpbase.consumer union all
    select 'index', indexrelid::regclass::text from pg_index where indisvalid
    order by 1, 2
"""


async def start(dsn: str, bomb: Bomb, *, where: str, directory: Path) -> bool:
    """Start and stop, with the bomb armed while it starts; whether it went off."""
    bomb.armed = True
    with planted(bomb, where=where):
        async with everywhere().running(database_url=dsn, project=directory, **PACE):
            bomb.armed = False
    return bool(bomb.went_off)


async def declared(dsn: str) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(_DECLARED)]
    finally:
        await connection.close()


@pytest.mark.parametrize("where", ["app", "engine"])
async def test_whichever_connection_of_a_start_ends_it_starts(dsn: str, where: str, tmp_path: Path) -> None:
    def bomb(at: int, moment: str) -> Bomb:
        return Bomb(kind="reset", moment=moment, at=at, labels=())

    await start(dsn, bomb(0, "before"), where=where, directory=tmp_path)
    wanted = await declared(dsn)
    at = 1
    while await start(dsn, bomb(at, ("before", "unanswered", "answered")[at % 3]), where=where, directory=tmp_path):
        at += 1
    assert at > 5
    assert await declared(dsn) == wanted


async def test_patience_with_losses_has_an_end_and_an_address_where_nobody_answers_needs_none() -> None:
    tried = 0

    async def lose() -> None:
        nonlocal tried
        tried += 1
        raise Unreachable("lost", sqlstate="57P01" if tried < 3 else None)

    with pytest.raises(Unreachable):
        await through_losses(lose, what="a test", random=lambda: 0.0, patience_s=0.2)
    assert tried > 2
    tried = 0
    with pytest.raises(Unreachable):
        await through_losses(lose, what="a test", random=lambda: 0.0, unless_unanswered=True)
    assert tried == 3
