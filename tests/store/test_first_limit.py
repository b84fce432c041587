"""The first limit of a queue meets a claim that is under way: whatever happens first, nothing slips through between.

The claim is one statement, so it is stopped inside: where it looks for gates a lock of the test's is in its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import asyncpg
import pytest

from chimpbase._core.limits import Limits
from chimpbase._core.values import ClaimedJob, ProcessId, QueueId, QueueSpec
from chimpbase._pg.db import Db
from chimpbase._schema.migrate import migrate
from chimpbase._schema.source import own_source
from chimpbase._store import gates, jobs, processes, queues
from tests.waiting import until

pytestmark = pytest.mark.anyio

_STOP = """
    alter function chimpbase.ungated(int[], bigint) rename to ungated_really;
    create function chimpbase.ungated(queues int[], process bigint) returns int[] language plpgsql volatile as $$
    declare
      found int[];
    begin
      {early}
      found := chimpbase.ungated_really(queues, process);
      {late}
      return found;
    end
    $$
"""
_WAIT = "perform pg_advisory_xact_lock(4711);"


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Db]:
    db = await Db.open(dsn, application_name="first limit", size=4)
    await migrate(db, source=own_source(), random=Random())
    async with db.acquire() as connection:
        await queues.register(connection, [QueueSpec(name="work", kind="job", max_attempts=3)])
    await db.execute("select chimpbase.enqueue('work', '1') from generate_series(1, 5)")
    yield db
    await db.close(grace=timedelta(seconds=1))


async def new_process(db: Db) -> ProcessId:
    async with db.acquire() as connection:
        lease = timedelta(seconds=60)
        return await processes.register(connection, app="x", host="x", pid=1, version="1", lease=lease, queues=[])


async def claim(db: Db, queue: QueueId, process: ProcessId) -> list[ClaimedJob]:
    wanted = jobs.Demand(queue=queue, jobs=3, after=jobs.FROM_THE_START)
    async with db.acquire() as connection:
        return await jobs.claim(connection, process=process, demands=[wanted], suspects=True)


async def limit_and_admit(db: Db, queue: QueueId, process: ProcessId) -> list[ClaimedJob]:
    async with db.acquire() as connection:
        await gates.declare(connection, limits={"work": Limits(concurrency=2).stored()})
        admitted = await gates.admit(connection, queue=queue, process=process, demand=5, suspects=True)
        return list(admitted.jobs)


async def waiting(db: Db, lock: str) -> bool:
    sql = "select exists (select from pg_stat_activity where wait_event = $1 and datname = current_database())"
    return bool(await db.fetch_value(sql, lock))


@pytest.mark.parametrize(("stopped", "claimed", "admitted"), [("before", 0, 2), ("after", 3, 0)])
async def test_the_first_admission_waits_for_a_claim_that_may_not_know_of_the_gate(
    db: Db, dsn: str, stopped: str, claimed: int, admitted: int
) -> None:
    early, late = (_WAIT, "") if stopped == "before" else ("", _WAIT)
    async with db.acquire() as connection:
        await connection.execute_script(_STOP.format(early=early, late=late))
    queue = QueueId(await db.fetch_value("select id from chimpbase.queue"))
    mine, other = await new_process(db), await new_process(db)
    keeper = await asyncpg.connect(dsn)
    await keeper.execute("select pg_advisory_lock(4711)")
    claiming = asyncio.create_task(claim(db, queue, mine))
    await until(lambda: waiting(db, "advisory"))
    admitting = asyncio.create_task(limit_and_admit(db, queue, other))
    # it has closed the gate, and may not count before the claim has ended: that holds the row of its process
    await until(lambda: waiting(db, "transactionid"))
    assert not claiming.done()
    await keeper.close()
    assert len(await claiming) == claimed
    assert len(await admitting) == admitted
    assert await db.fetch_value("select count(*) from chimpbase.job where process is not null") == claimed + admitted
    # and from now on it is the gate that gives
    assert await claim(db, queue, mine) == []


async def test_a_claim_that_comes_while_the_gate_is_being_closed_waits_and_takes_nothing(db: Db, dsn: str) -> None:
    queue = QueueId(await db.fetch_value("select id from chimpbase.queue"))
    mine, other = await new_process(db), await new_process(db)
    async with db.transaction() as connection:
        await gates.declare(connection, limits={"work": Limits(concurrency=2).stored()})
        admitted = await gates.admit(connection, queue=queue, process=other, demand=5, suspects=True)
        assert len(admitted.jobs) == 2
        # neither who enqueues nor who claims knows of the gate
        await db.execute("select chimpbase.enqueue('work', '1')")
        claiming = asyncio.create_task(claim(db, queue, mine))
        await until(lambda: waiting(db, "transactionid"))
    assert await claiming == []
    assert await db.fetch_value("select count(*) from chimpbase.job where process is not null") == 2
