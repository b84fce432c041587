"""Limits hold in a whole fleet, at every instant, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from time import monotonic

import asyncpg
import pytest

from tests.running import is_idle, left_over
from tests.stories.fleet import Fleet, fleet_of
from tests.waiting import until

pytestmark = pytest.mark.anyio
RUNNING = """
select queue.name, coalesce(job.key, '-') as key, count(*) as jobs
from chimpbase.job join chimpbase.queue on queue.id = job.queue
where job.process is not null
group by 1, 2
"""


class Sampler:
    """Looks at what is leased, again and again, and remembers the most of each queue and of each key."""

    def __init__(self, dsn: str) -> None:
        self._dsn, self._stop = dsn, asyncio.Event()
        self.most: Counter[tuple[str, str]] = Counter()
        self.looks = 0
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        while not self._stop.is_set():
            seen: Counter[tuple[str, str]] = Counter()
            for queue, key, jobs in await connection.fetch(RUNNING):
                seen[queue, key] = jobs
                seen[queue, "all"] += jobs
            for name, jobs in seen.items():
                self.most[name] = max(self.most[name], jobs)
            self.looks += 1
        await connection.close()

    async def stop(self) -> None:
        self._stop.set()
        await self._task


def most_at_once(spans: Iterable[tuple[datetime, datetime]]) -> int:
    """How many of these stretches of time overlap at most; one that ends as another begins does not."""
    events = sorted(event for began, ended in spans for event in ((began, 1), (ended, -1)))
    now = most = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


@pytest.mark.timeout(120)
async def test_no_limit_is_exceeded_by_one_while_processes_are_killed(
    dsn: str, tmp_path: Path, outside: asyncpg.Connection
) -> None:
    await outside.execute("create table span (queue text, key text, number int, began timestamptz, ended timestamptz)")
    dice = random.Random(20261123)
    async with fleet_of("tests.stories.apps.limited", dsn, tmp_path) as fleet:
        await fleet.start()
        await outside.execute("update chimpbase.queue set max_crashes = 50")
        for _ in range(3):
            await fleet.start()
        sampler = Sampler(dsn)
        producer = asyncio.create_task(produce(dsn))
        await kill_now_and_then(fleet, dice, seconds=8)
        await producer
        await until(lambda: is_idle(outside), deadline_s=40)
        await sampler.stop()
    assert sampler.looks > 100
    check_capped(await spans(outside, "capped"), sampler)
    check_lines(await spans(outside, "lines"), sampler)
    check_rated(await spans(outside, "rated"))
    assert await left_over(outside) == {}


async def produce(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    options = """jsonb_build_object('key', chr(97 + n % 5))"""
    for first in range(0, 400, 20):
        for queue in ("capped", "lines"):
            await connection.execute(
                f"select chimpbase.enqueue('{queue}', to_jsonb(n), {options}) from generate_series($1::int, $2::int) n",
                *(first, first + 19),
            )
        await connection.execute(
            "select chimpbase.enqueue('rated', to_jsonb(n)) from generate_series($1::int, $2::int) n", first, first + 8
        )
        await connection.execute("select pg_sleep(0.2)")
    await connection.close()


async def kill_now_and_then(fleet: Fleet, dice: random.Random, *, seconds: float) -> None:
    """Kill a random process every second; another takes its place."""
    until_s, kills = monotonic() + seconds, 0
    while monotonic() < until_s:
        turn = asyncio.Event()
        asyncio.get_running_loop().call_later(1, turn.set)
        await turn.wait()
        await dice.choice([member for member in fleet.members if member.alive]).kill()
        kills += 1
        await fleet.start(host="elsewhere" if kills % 2 else None)


async def spans(outside: asyncpg.Connection, queue: str) -> list[asyncpg.Record]:
    return await outside.fetch("select key, number, began, ended from span where queue = $1 order by began", queue)


def by_key(rows: list[asyncpg.Record]) -> dict[str, list[asyncpg.Record]]:
    keys: defaultdict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        keys[row["key"]].append(row)
    return keys


def check_capped(rows: list[asyncpg.Record], sampler: Sampler) -> None:
    assert sorted(row["number"] for row in rows) == list(range(400))
    assert most_at_once((row["began"], row["ended"]) for row in rows) <= 5
    assert sampler.most["capped", "all"] == 5
    for key, mine in by_key(rows).items():
        assert most_at_once((row["began"], row["ended"]) for row in mine) <= 2
        assert sampler.most["capped", key] <= 2


def check_lines(rows: list[asyncpg.Record], sampler: Sampler) -> None:
    assert len(rows) == 400
    for key, mine in by_key(rows).items():
        assert [row["number"] for row in mine] == sorted(row["number"] for row in mine)
        assert most_at_once((row["began"], row["ended"]) for row in mine) == 1
        assert sampler.most["lines", key] <= 1


def check_rated(rows: list[asyncpg.Record]) -> None:
    assert len(rows) == 180
    began = [row["began"].timestamp() for row in rows]
    for first in range(len(began)):
        for last in range(first, len(began)):
            # a start is counted when it is committed; its handler begins some time after that
            allowed = 6 + 30 * (began[last] - began[first] + 0.5)
            assert last - first + 1 <= allowed
