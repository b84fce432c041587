"""The ledger: thousands of jobs, processes killed and started again all the while, and every effect exactly once."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from pathlib import Path
from time import monotonic

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue
from chimpbase._pg.embedded import EmbeddedServer
from tests.running import Start, history, is_idle, left_over, notes, the_value
from tests.stories.fleet import Fleet, fleet_of
from tests.waiting import passing, until

JOBS, KILLS = 3000, 12
pytestmark = pytest.mark.anyio


async def test_every_effect_exactly_once_while_processes_are_killed(
    dsn: str, tmp_path: Path, outside: asyncpg.Connection
) -> None:
    await outside.execute("create table account (id int primary key, balance int not null)")
    await outside.execute("insert into account select n, 0 from generate_series(0, 19) n")
    dice = random.Random(20261123)
    async with fleet_of("tests.stories.apps.ledger", dsn, tmp_path) as fleet:
        first = await fleet.start()
        # a job that is in the wrong place three times by chance is not what this is about
        await outside.execute("update chimpbase.queue set max_crashes = 50")
        wanted = asyncio.Semaphore(0)
        producer = asyncio.create_task(produce(dsn, wanted))
        await kill_while_working(fleet, first, dice, wanted, outside)
        await producer
        await fleet.start()
        await until(lambda: is_idle(outside), deadline_s=30)
    wanted = [(who, str(n)) for who in ("receipt", "transfer") for n in range(JOBS)]
    found = [tuple(row) for row in await outside.fetch("select who, note from ledger order by who, note::int")]
    assert found == wanted
    assert await outside.fetchval("select sum(balance) from account") == 0
    assert await left_over(outside) == {}
    assert sum(row["crashes"] for row in await history(outside, "job_done")) > 0
    assert await outside.fetchval("select count(*) from pg_prepared_xacts") == 0


async def produce(dsn: str, wanted: asyncio.Semaphore) -> None:
    """Enqueue in many small transactions, some of which are taken back; never far ahead of those who kill."""
    connection = await asyncpg.connect(dsn)
    try:
        for n in range(0, JOBS, 10):
            async with connection.transaction():
                await connection.execute(
                    "select chimpbase.enqueue('transfer', to_jsonb(n)) from generate_series($1::int, $2::int) n",
                    n,
                    n + 9,
                )
            taken_back = connection.transaction()
            await taken_back.start()
            await connection.execute("select chimpbase.enqueue('transfer', to_jsonb(-1))")
            await taken_back.rollback()
            if n % (JOBS // KILLS) == 0:
                await wanted.acquire()
    finally:
        await connection.close()


async def kill_while_working(
    fleet: Fleet, first: object, dice: random.Random, wanted: asyncio.Semaphore, outside: asyncpg.Connection
) -> None:
    """Keep two to three processes running, and kill one of them as soon as jobs run that were made meanwhile."""
    assert first in fleet.members
    for kills in range(KILLS):
        alive = [member for member in fleet.members if member.alive]
        if len(alive) < 3:
            # every second one pretends to be on another machine, so that its jobs come back by the lease alone
            await fleet.start(host="elsewhere" if kills % 2 else None)
        wanted.release()
        await until(lambda: the_value(outside, "select exists (select from chimpbase.job where process is not null)"))
        await passing(dice.uniform(0, 0.05))
        victim = dice.choice([member for member in fleet.members if member.alive])
        await victim.kill()


async def test_every_effect_exactly_once_while_backends_are_terminated(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("backends")
    jobs = Queue("jobs", int)

    @app.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ('worker', $1)", str(n))
        await ctx.kv.set("last", n)

    stop = asyncio.Event()

    async def terminate() -> int:
        killed = 0
        while not stop.is_set():
            killed += await the_value(
                outside,
                """
                select count(pg_terminate_backend(pid)) from (
                  select pid from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
                  order by random() limit 2) victims
            """,
            )
            await outside.execute("select pg_sleep(0.1)")
        return killed

    async with start(app):
        await outside.execute("select chimpbase.enqueue('jobs', to_jsonb(n)) from generate_series(1, 600) n")
        terminator = asyncio.create_task(terminate())
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(4, passed.set)
        await passed.wait()
        stop.set()
        assert await terminator > 20
        await until(lambda: is_idle(outside), deadline_s=15)
        assert sorted(map(int, await notes(outside))) == list(range(1, 601))
        assert await history(outside, "job_dead") == []


async def test_work_goes_on_within_two_seconds_of_the_servers_return(tmp_path: Path) -> None:
    app = App("restart")
    jobs = Queue("jobs", int)

    @app.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("insert into ledger values ($1)", n)

    @app.action
    async def fill(ctx: Ctx, first: int, last: int) -> None:
        for n in range(first, last + 1):
            await ctx.queue.enqueue(jobs, n)

    directory = tmp_path / "data"
    server = await EmbeddedServer.start(directory)
    try:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("create table ledger (n int)")
        await connection.close()
        async with app.running(
            database_url=server.dsn, project=tmp_path, lease=timedelta(seconds=2), poll=timedelta(seconds=0.2)
        ):
            await app.call(fill, 1, 200)
            await server.stop()
            down = asyncio.Event()
            asyncio.get_running_loop().call_later(2.5, down.set)
            await down.wait()
            server = await EmbeddedServer.start(directory)
            back = monotonic()
            outside = await asyncpg.connect(server.dsn)
            await until(lambda: is_idle(outside))
            assert monotonic() - back < 2.5
            assert [row[0] for row in await outside.fetch("select n from ledger order by n")] == list(range(1, 201))
            assert await history(outside, "job_dead") == []
            await app.call(fill, 201, 201)
            await until(lambda: is_idle(outside))
            await outside.close()
    finally:
        await server.stop()
