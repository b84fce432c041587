"""Several processes: what happens to the work of one that is killed, stalled or blocked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from tests.running import notes, the_row, the_value
from tests.stories.fleet import Fleet, fleet_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fleet(dsn: str, tmp_path: Path, outside: asyncpg.Connection) -> AsyncIterator[Fleet]:
    async with fleet_of("tests.stories.apps.jobs", dsn, tmp_path) as fleet:
        yield fleet


async def enqueue(outside: asyncpg.Connection, queue: str, payload: object) -> int:
    return await the_value(outside, "select chimpbase.enqueue($1, $2)", queue, json.dumps(payload))


@pytest.mark.parametrize("host", [None, "another machine"])
async def test_the_jobs_of_a_killed_process_run_elsewhere_within_its_lease(
    fleet: Fleet, outside: asyncpg.Connection, host: str | None
) -> None:
    victim = await fleet.start(host=host)
    jobs = [await enqueue(outside, "first_time_held", f"job {n}") for n in range(5)]
    await until(lambda: held_by(outside, victim.pid, len(jobs)))
    other = await fleet.start()
    await victim.kill()
    # lease 1 s + 1 s, and what a busy machine adds
    await until(lambda: has_notes(outside, len(jobs)), deadline_s=2 if host is None else 2.5)
    assert sorted(await notes(outside)) == [f"job {n}" for n in range(5)]
    assert {row[0] for row in await outside.fetch("select who from ledger")} == {str(other.pid)}
    rows = await outside.fetch("select attempt, crashes, errors from chimpbase.job_done where id = any($1)", jobs)
    assert {(row["attempt"], row["crashes"]) for row in rows} == {(2, 1)}
    assert {json.loads(row["errors"])[0]["error"] for row in rows} == {"ProcessLost"}


async def test_a_plain_job_that_may_be_tried_once_is_not_begun_again_after_a_kill(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    victim = await fleet.start()
    jobs = [await enqueue(outside, "once", "begun") for _ in range(3)]
    await until(lambda: has_notes(outside, 3))
    await victim.kill()
    await fleet.start()
    dead = await until(lambda: all_dead(outside, jobs))
    assert [(row["reason"], row["attempt"]) for row in dead] == [("crashed", 1)] * 3
    assert await notes(outside) == ["begun"] * 3


async def any_dead(outside: asyncpg.Connection) -> bool:
    return await the_value(outside, "select count(*) > 0 from chimpbase.job_dead")


async def all_dead(outside: asyncpg.Connection, jobs: list[int]) -> list[asyncpg.Record]:
    rows = await outside.fetch("select reason, attempt from chimpbase.job_dead where id = any($1)", jobs)
    return rows if len(rows) == len(jobs) else []


async def test_a_plain_job_has_one_idempotency_key_in_every_attempt(fleet: Fleet, outside: asyncpg.Connection) -> None:
    victim = await fleet.start()
    for text in ("a", "b"):
        await enqueue(outside, "keyed", text)
    await until(lambda: has_notes(outside, 2))
    await victim.kill()
    await fleet.start()
    await until(lambda: has_notes(outside, 6))
    keys = {text: {note for note in await notes(outside) if note.startswith(text)} for text in ("a", "b")}
    assert [len(each) for each in keys.values()] == [1, 1]
    assert len({note.split()[1] for each in keys.values() for note in each}) == 2


async def test_a_woken_zombie_commits_nothing(fleet: Fleet, outside: asyncpg.Connection) -> None:
    zombie = await fleet.start(host="another machine")
    await enqueue(outside, "stalled", "once")
    await until(lambda: held_by(outside, zombie.pid, 1))
    zombie.stall()
    other = await fleet.start()
    await until(lambda: has_notes(outside, 1), deadline_s=5)
    zombie.go_on()
    await until(lambda: "lease lost" in zombie.log.read_text(), deadline_s=5)
    # it comes back as a new process and works on
    await other.stop()
    await enqueue(outside, "note", "after")
    await until(lambda: has_notes(outside, 2), deadline_s=5)
    rows = await outside.fetch("select who, note from ledger order by at")
    assert [tuple(row) for row in rows] == [(str(other.pid), "once"), (str(zombie.pid), "after")]


async def test_a_blocked_event_loop_keeps_its_lease_and_is_reported_with_its_stack(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    blocked = await fleet.start(host="another machine")
    await enqueue(outside, "block", 2.5)
    await until(lambda: held_by(outside, blocked.pid, 1))
    await fleet.start()
    await until(lambda: has_notes(outside, 1), deadline_s=10)
    rows = await outside.fetch("select who, note from ledger")
    assert [tuple(row) for row in rows] == [(str(blocked.pid), "blocked")]
    log = blocked.log.read_text()
    assert "event loop has been blocked" in log
    assert "threading.Event().wait(seconds)" in log
    assert "lease lost" not in log


async def test_a_job_that_never_lets_go_of_the_event_loop_is_named_and_dies_with_its_process(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    stuck = await fleet.start()
    job = await enqueue(outside, "endless", "never")
    await until(lambda: held_by(outside, stuck.pid, 1))
    other = await fleet.start()
    for n in range(10):
        await enqueue(outside, "note", f"note {n}")
    await until(lambda: has_notes(outside, 10))
    await until(lambda: "event loop has been blocked" in stuck.log.read_text())
    assert "in endless" in stuck.log.read_text()
    await stuck.kill()
    await until(lambda: any_dead(outside))
    row = await the_row(outside, "select id, reason, crashes, errors from chimpbase.job_dead")
    assert (row["id"], row["reason"], row["crashes"]) == (job, "crashed", 1)
    assert [one["error"] for one in json.loads(row["errors"])] == ["ProcessLost"]
    assert sorted(await notes(outside)) == [f"note {n}" for n in range(10)]
    assert {who for (who,) in await outside.fetch("select who from ledger")} == {str(other.pid)}


async def test_a_result_of_a_hundred_megabytes_is_an_error_of_its_job_alone(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    member = await fleet.start()
    job = await enqueue(outside, "large", 100_000_000)
    await until(lambda: any_dead(outside))
    row = await the_row(outside, "select id, reason, errors from chimpbase.job_dead")
    assert row["id"] == job
    (error,) = json.loads(row["errors"])
    assert error["error"] == "PayloadError"
    assert "takes 100,000,002 bytes as JSON; the limit is 1,048,576" in error["message"]
    assert len(row["errors"]) < 2000
    await enqueue(outside, "note", "after")
    await until(lambda: has_notes(outside, 1))
    # its writes are taken back with it, and the process lives
    assert (await notes(outside), member.alive) == (["after"], True)
    assert member.log.stat().st_size < 100_000


async def test_a_job_that_kills_its_process_ends_in_the_dead_letters_and_its_neighbours_finish(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    await fleet.start()
    await outside.execute("select chimpbase.enqueue('poison', to_jsonb('fine ' || n)) from generate_series(1, 4) n")
    poison = await enqueue(outside, "poison", "poison")
    await outside.execute("select chimpbase.enqueue('poison', to_jsonb('fine ' || n)) from generate_series(5, 20) n")

    async def buried() -> bool:
        if not any(member.alive for member in fleet.members):
            await fleet.start()
        return await the_value(outside, "select count(*) > 0 from chimpbase.job_dead")

    await until(buried, deadline_s=30)
    if not any(member.alive for member in fleet.members):
        await fleet.start()
    await until(lambda: has_notes(outside, 20), deadline_s=10)
    row = await the_row(outside, "select id, reason, crashes from chimpbase.job_dead")
    # three crashes bury it, two more where it was not alone when they happened
    assert (row["id"], row["reason"]) == (poison, "crashed")
    assert 3 <= row["crashes"] <= 5
    assert sorted(await notes(outside)) == sorted(f"fine {n}" for n in range(1, 21))


async def test_two_processes_run_each_occurrence_once(dsn: str, tmp_path: Path, outside: asyncpg.Connection) -> None:
    async with fleet_of("tests.stories.apps.ticks", dsn, tmp_path) as fleet:
        for _ in range(2):
            await fleet.start()
        await until(lambda: has_notes(outside, 4))
        for member in fleet.members:
            assert await member.stop() == 0
    ticks = [datetime.fromisoformat(note) for note in sorted(await notes(outside))]
    assert [later - earlier for earlier, later in pairwise(ticks)] == [timedelta(seconds=1)] * (len(ticks) - 1)


async def test_a_clean_stop_gives_back_what_does_not_end_in_time_and_charges_nothing(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    member = await fleet.start(grace=0.2)
    job = await enqueue(outside, "first_time_held", "a")
    await until(lambda: held_by(outside, member.pid, 1))
    assert await member.stop() == 0
    row = await the_row(outside, "select process, attempt, uncharged, crashes from chimpbase.job where id = $1", job)
    assert tuple(row) == (None, 1, 1, 0)
    assert await outside.fetchval("select count(*) from chimpbase.process") == 0


async def test_a_stopping_process_keeps_its_lease_until_its_last_job_has_ended(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    await outside.execute("create table released (note text)")
    stopping = await fleet.start(host="another machine", grace=10)
    await enqueue(outside, "held", "slow")
    await until(lambda: held_by(outside, stopping.pid, 1))
    other = await fleet.start()
    stop = asyncio.create_task(stopping.stop())
    # three leases pass; a job that was taken over would be held by the other one by then
    await outside.execute("select pg_sleep(3)")
    assert not await held_by(outside, other.pid, 1)
    await outside.execute("insert into released values ('slow')")
    assert await stop == 0
    rows = await outside.fetch("select who, note from ledger")
    assert [tuple(row) for row in rows] == [(str(stopping.pid), "slow")]
    assert await outside.fetchval("select count(*) from chimpbase.job") == 0


async def held_by(outside: asyncpg.Connection, pid: int, jobs: int) -> bool:
    sql = "select count(*) from chimpbase.job join chimpbase.process on process.id = job.process where pid = $1"
    return await the_value(outside, sql, pid) >= jobs


async def has_notes(outside: asyncpg.Connection, n: int) -> bool:
    return len(await notes(outside)) >= n


async def test_the_jobs_of_a_process_whose_row_was_deleted_are_rescued(
    fleet: Fleet, outside: asyncpg.Connection
) -> None:
    victim = await fleet.start(host="another machine")
    job = await enqueue(outside, "first_time_held", "a")
    await until(lambda: held_by(outside, victim.pid, 1))
    await victim.kill()
    await outside.execute("delete from chimpbase.process where pid = $1", victim.pid)
    await fleet.start()
    await until(lambda: has_notes(outside, 1))
    row = await the_row(outside, "select attempt, crashes from chimpbase.job_done where id = $1", job)
    assert tuple(row) == (2, 1)
