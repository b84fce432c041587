"""Fences: whoever no longer holds a job can write nothing about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Wf
from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import ClaimedJob, JobId, ProcessId, QueueId, StepMemo
from chimpbase._pg.db import Db
from chimpbase._store import jobs, processes, runs
from chimpbase._store.jobs import FROM_THE_START, Demand
from tests.running import Start

pytestmark = pytest.mark.anyio
ERROR = '{"attempt": 1, "error": "E", "message": "m"}'


@pytest.fixture
async def db(start: Start, dsn: str, outside: asyncpg.Connection) -> AsyncIterator[Db]:
    """A database that an app without workers has prepared; it has a queue, a job and a run."""
    app = App("prepared")

    @app.worker("work")
    async def work(ctx: Any, n: int) -> None: ...

    @app.workflow("flow")
    async def flow(wf: Wf) -> None: ...

    async with start(app, workers=False):
        pass
    await outside.execute("select chimpbase.enqueue('work', '1')")
    await outside.execute("select chimpbase.start_workflow('flow', 'null', '{\"id\": \"a\"}')")
    await outside.execute("select chimpbase.signal('a', 'go', '1'), chimpbase.signal('a', 'go', '2')")
    db = await Db.open(dsn, application_name="fences", size=4)
    yield db
    await db.close(grace=timedelta(seconds=1))


async def new_process(db: Db) -> ProcessId:
    async with db.acquire() as connection:
        lease = timedelta(seconds=60)
        return await processes.register(
            connection, app="x", host="elsewhere", pid=1, version="1", lease=lease, queues=[]
        )


async def claim(db: Db, process: ProcessId, queue: str) -> ClaimedJob | None:
    async with db.acquire() as connection:
        id = QueueId(await connection.fetch_value("select id from chimpbase.queue where name = $1", queue))
        demand = Demand(queue=id, jobs=10, after=FROM_THE_START)
        found = await jobs.claim(connection, process=process, demands=[demand], suspects=True)
    return found[0] if found else None


async def rescue(db: Db, process: ProcessId) -> list[jobs.Rescued]:
    async with db.acquire() as connection:
        await processes.expire(connection, gone=[process])
        return await jobs.rescue(connection, processes=[process], error=ERROR)


async def taken_over(db: Db, queue: str) -> tuple[ProcessId, ClaimedJob, ProcessId, ClaimedJob]:
    """A job that one process held and another holds now: (old process, old claim, new process, new claim)."""
    old, new = await new_process(db), await new_process(db)
    was = await claim(db, old, queue)
    assert was is not None
    assert [one.id for one in await rescue(db, old)] == [was.id]
    now = await claim(db, new, queue)
    assert now is not None
    return old, was, new, now


@pytest.mark.parametrize("verb", ["finish", "put_off", "dead_letter", "give_back"])
async def test_a_job_that_was_taken_over_can_be_ended_by_its_new_holder_alone(db: Db, verb: str) -> None:
    old, was, new, now = await taken_over(db, "work")

    def end(job: ClaimedJob) -> Any:
        return {
            "finish": jobs.Finished(job.id, job.attempt),
            "put_off": jobs.PutOff(job.id, job.attempt, timedelta(0), charged=True, error=ERROR),
            "dead_letter": jobs.Dead(job.id, job.attempt, "exhausted", ERROR),
            "give_back": job,
        }[verb]

    write: Any = getattr(jobs, verb)
    async with db.acquire() as connection:
        assert await write(connection, process=old, jobs=[end(was)]) == set()
        assert await write(connection, process=old, jobs=[end(now)]) == set()
        assert await write(connection, process=new, jobs=[end(was)]) == set()
        assert await write(connection, process=new, jobs=[end(now)]) == {now.id}
        assert await write(connection, process=new, jobs=[end(now)]) == set()


async def test_a_job_that_was_taken_over_can_be_finished_by_its_new_holder_alone(db: Db) -> None:
    old, was, new, now = await taken_over(db, "work")
    async with db.acquire() as connection:

        async def finish(process: ProcessId, job: ClaimedJob) -> set[JobId]:
            return await jobs.finish_alike(connection, process=process, ids=[job.id], attempt=job.attempt)

        assert await finish(old, was) == await finish(old, now) == await finish(new, was) == set()
        assert await finish(new, now) == {now.id}
        assert await finish(new, now) == set()


async def test_a_commit_is_not_reached_by_the_end_of_a_job_that_was_taken_over(
    db: Db, outside: asyncpg.Connection
) -> None:
    old, was, new, now = await taken_over(db, "work")
    for process, job in ((old, was), (old, now), (new, was)):
        with pytest.raises(DatabaseError, match="is not held") as refused:
            await commit_with_end(db, process, job)
        assert refused.value.sqlstate == "CB030"
        assert await outside.fetchval("select count(*) from ledger") == 0
    await commit_with_end(db, new, now)
    assert await outside.fetchval("select count(*) from ledger") == 1
    assert await outside.fetchval("select outcome from chimpbase.job_done where id = $1", now.id) == "completed"


async def commit_with_end(db: Db, process: ProcessId, job: ClaimedJob) -> None:
    connection = await db.begin()
    try:
        await connection.execute("insert into ledger values ('end', 'x')")
        await connection.commit(jobs.settle(process=process, job=job.id, attempt=job.attempt))
    finally:
        await db.give_back(connection)


async def test_a_dead_process_claims_nothing(db: Db) -> None:
    process = await new_process(db)
    await rescue(db, process)
    assert await claim(db, process, "work") is None


async def test_a_process_that_holds_a_job_is_not_forgotten(db: Db) -> None:
    process, idle = await new_process(db), await new_process(db)
    assert await claim(db, process, "work") is not None
    async with db.acquire() as connection:
        assert await processes.remove(connection, processes=[process, idle]) == {idle}


async def test_a_run_that_was_taken_over_hears_nothing_from_its_old_holder(db: Db) -> None:
    old, was, new, now = await taken_over(db, "workflow:flow@1")
    at = datetime.now(UTC)
    memo = StepMemo(key="s#1", seq=1, kind="step", started_at=at, finished_at=at, result="1")
    rest = runs.Rest(
        state="waiting", due_at=None, waits=["go"], timers=[], now=at, heard=False, pause=None, view=None, code="c"
    )
    async with db.acquire() as connection:
        for process, job in ((old, was), (old, now), (new, was)):
            lease = runs.Lease(process, job.id, job.attempt, 1)
            assert await runs.load_journals(connection, [lease]) == {}
            assert await runs.memo(connection, [runs.Memo(lease, memo)]) == set()
            assert await consume(connection, process, job) is None
            end = runs.Ending(lease, "completed", "1", None, None, "c")
            assert await runs.finish(connection, [end]) == set()
            assert await runs.finish_family(connection, end) is None
            assert not await runs.continue_as(connection, lease, input="1", view=None)
            assert not await runs.migrate(connection, lease, workflow="flow", version=1, input="1", keys={})
        assert await consume(connection, new, now) == "1"
        await connection.execute("update chimpbase.run set woken = false")
        gone, held = runs.Lease(old, was.id, was.attempt, 1), runs.Lease(new, now.id, now.attempt, 1)
        assert await runs.suspend(connection, gone, rest) == runs.Rested(False, False, None)
        assert await runs.suspend(connection, held, rest) == runs.Rested(True, False, None)


async def test_nobody_takes_a_run_over_while_it_consumes_a_signal(db: Db) -> None:
    """Else the new holder would find the signal gone, and rest without knowing what it decided."""
    process = await new_process(db)
    job = await claim(db, process, "workflow:flow@1")
    assert job is not None
    async with db.transaction() as connection:
        assert await consume(connection, process, job) == "1"
        assert await rescue(db, process) == []
    assert [one.id for one in await rescue(db, process)] == [job.id]


async def consume(connection: Any, process: ProcessId, job: ClaimedJob) -> str | None:
    began = datetime.now(UTC)
    taken = await runs.consume(
        connection,
        runs.Lease(process, job.id, job.attempt, 1),
        names=["go"],
        key="wait:go#1",
        seq=1,
        kind="wait",
        detail=None,
        started_at=began,
        finished_at=began,
    )
    return None if taken is None else taken[1]


async def test_a_job_among_others_gets_two_crashes_more_than_one_that_was_alone(
    db: Db, outside: asyncpg.Connection
) -> None:
    await outside.execute("select chimpbase.enqueue('work', '2')")
    await outside.execute("update chimpbase.job set crashes = 2 where payload in ('1', '2')")
    queue = await outside.fetchval("select id from chimpbase.queue where name = 'work'")

    async def crash(payloads: set[str]) -> list[tuple[int, str]]:
        process = await new_process(db)
        await outside.execute(
            "update chimpbase.job set process = $1, attempt = attempt + 1 where queue = $2 and payload = any ($3)",
            *(process, queue, list(payloads)),
        )
        return sorted((job.id, "dead" if job.dead else "back") for job in await rescue(db, process))

    assert [verdict for _, verdict in await crash({"1", "2"})] == ["back", "back"]
    assert [verdict for _, verdict in await crash({"1"})] == ["dead"]
    await outside.execute("update chimpbase.job set crashes = 4 where payload = '2'")
    await outside.execute("select chimpbase.enqueue('work', '3')")
    assert [verdict for _, verdict in await crash({"2", "3"})] == ["dead", "back"]
