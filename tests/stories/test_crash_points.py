"""Crash points: a process is killed right after each statement of a job and of a workflow in turn, and another goes on.

What the database has seen when a process dies before a statement is what it has seen after the one before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.running import is_idle, left_over, notes, the_row
from tests.stories.fleet import Fleet, fleet_of
from tests.waiting import until

pytestmark = pytest.mark.anyio

#: Where the process dies: after how many statements, on whose connections.
JOB_POINTS = [("app", n) for n in range(1, 9)] + [("engine", n) for n in range(1, 4)]
RUN_POINTS = [("app", n) for n in range(1, 13)] + [("engine", n) for n in range(1, 9)]

DEEP_POINTS = [("app", n) for n in range(1, 10)] + [("engine", n) for n in range(1, 25, 2)]


@pytest.fixture
async def fleet(dsn: str, tmp_path: Path, outside: asyncpg.Connection) -> AsyncIterator[Fleet]:
    async with fleet_of("tests.stories.apps.points", dsn, tmp_path) as fleet:
        yield fleet


@pytest.mark.parametrize(("where", "after"), JOB_POINTS)
async def test_a_job_killed_at_any_statement_has_all_its_effects_once(
    fleet: Fleet, outside: asyncpg.Connection, where: str, after: int
) -> None:
    victim = await fleet.start(die_in=where, die_after=after)
    await outside.execute("select chimpbase.enqueue('first', '\"x\"')")
    await until(lambda: died_or_done(victim.alive, outside))
    assert not victim.alive
    # all or nothing, also right after the kill: the job is there if and only if its writes are not
    job_there = await outside.fetchval(
        "select exists (select from chimpbase.job join chimpbase.queue on queue.id = job.queue where name = 'first')"
    )
    assert job_there != ("first" in await notes(outside))
    await fleet.start()
    await until(lambda: is_idle(outside))
    assert sorted(await notes(outside)) == ["first", "follow", "one", "two"]
    assert await left_over(outside) == {"event": 1, "kv": 1}


@pytest.mark.parametrize(("where", "after"), RUN_POINTS)
async def test_a_run_killed_at_any_statement_completes_with_each_step_once(
    fleet: Fleet, outside: asyncpg.Connection, where: str, after: int
) -> None:
    victim = await fleet.start(die_in=where, die_after=after)
    await outside.execute("select chimpbase.start_workflow('journey', '\"x\"', '{\"id\": \"j\"}')")
    await outside.execute("select chimpbase.signal('j', 'go', '\"s\"')")
    await until(lambda: died_or_done(victim.alive, outside))
    assert not victim.alive
    await fleet.start()
    await until(lambda: is_idle(outside))
    assert sorted(await notes(outside)) == ["a", "b", "c"]
    assert tuple(await the_row(outside, "select state, output from chimpbase.run")) == ("completed", '"apbsc"')
    assert await left_over(outside) == {"run": 1}


@pytest.mark.parametrize(("where", "after"), DEEP_POINTS)
async def test_a_deep_run_killed_at_any_statement_does_everything_once(
    fleet: Fleet, outside: asyncpg.Connection, where: str, after: int
) -> None:
    victim = await fleet.start(die_in=where, die_after=after)
    await outside.execute("select chimpbase.start_workflow('deep', '1', '{\"id\": \"d\"}')")
    await until(lambda: died_or_done(victim.alive, outside))
    assert not victim.alive
    await fleet.start()
    await until(lambda: is_idle(outside))
    assert sorted(await notes(outside)) == ["block 1", "block 2", "child", "left"]
    run = await the_row(outside, "select state, output from chimpbase.run where id = 'd'")
    assert tuple(run) == ("completed", '"left right child child late"')
    assert await left_over(outside) == {"run": 2}


async def died_or_done(alive: bool, outside: asyncpg.Connection) -> bool:
    return not alive or await is_idle(outside)
