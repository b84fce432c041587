"""What may be asked for one job alone: when, in which order, how often, until when."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue, Retry, SyncCtx
from chimpbase.errors import PayloadError, UsageError
from tests.running import Start, errors_of, history, the_row
from tests.waiting import until

pytestmark = pytest.mark.anyio

numbers = Queue("numbers", int)
AHEAD = timedelta(hours=1)


def app_with(seen: list[int] | None = None, *, fails: bool = False) -> App:
    app = App("options")

    @app.worker(numbers, retry=Retry(max_attempts=9, first=timedelta(hours=5), cap=timedelta(hours=5)))
    async def count(ctx: Ctx, number: int) -> None:
        if seen is not None:
            seen.append(number)
        if fails:
            raise OSError("again")

    return app


async def test_a_job_that_is_to_run_later_waits_for_its_instant(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with()
    at = datetime.now(UTC) + AHEAD
    async with start(app):
        await app.ctx.queue.enqueue(numbers, 1, run_at=at)
        await app.ctx.queue.enqueue_many(numbers, [2, 3], run_at=at)
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(numbers, 4, run_at=at)
        rows = await outside.fetch("select due_at, payload from chimpbase.job_later order by payload")
    assert [(row["due_at"], row["payload"]) for row in rows] == [(at, "1"), (at, "2"), (at, "3"), (at, "4")]


async def test_an_instant_that_has_passed_is_now(start: Start) -> None:
    seen: list[int] = []
    app = app_with(seen)
    async with start(app, poll=60.0):
        await app.ctx.queue.enqueue(numbers, 1, run_at=datetime(2020, 1, 1, tzinfo=UTC))
        await until(lambda: seen == [1])


async def test_an_instant_soon_is_met_without_the_poll(start: Start) -> None:
    seen: list[int] = []
    app = app_with(seen)
    async with start(app, poll=60.0):
        await app.ctx.queue.enqueue(numbers, 1, run_at=datetime.now(UTC) + timedelta(seconds=0.2))
        await until(lambda: seen == [1])


async def test_all_options_are_stored_in_one_call_and_in_many(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with()
    retry = Retry(max_attempts=3, first=timedelta(seconds=2), factor=1.5, cap=timedelta(seconds=9), jitter=0)
    deadline = datetime(2999, 1, 1, tzinfo=UTC)
    async with start(app, workers=False):
        await app.ctx.queue.enqueue(numbers, 1, priority=-5, key="tenant-ä", retry=retry, not_after=deadline)
        await app.ctx.queue.enqueue_many(numbers, [2], priority=-5, key="tenant-ä", retry=retry, not_after=deadline)
        rows = await outside.fetch("select priority, key, max_attempts, terms from chimpbase.job order by id")
    for row in rows:
        assert (row["priority"], row["key"], row["max_attempts"]) == (-5, "tenant-ä", 3)
        assert json.loads(row["terms"]) == {
            "not_after": "2999-01-01T00:00:00+00:00",
            "retry": {"first": 2.0, "factor": 1.5, "cap": 9.0, "jitter": 0.0},
        }
    assert len(rows) == 2


async def test_a_plain_function_enqueues_many_with_options(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with()

    @app.action
    def fill(ctx: SyncCtx) -> list[int]:
        return [int(id) for id in ctx.queue.enqueue_many(numbers, [1, 2, 3], key="k", delay=AHEAD)]

    async with start(app, workers=False):
        ids = await app.call(fill)
        rows = await outside.fetch("select id from chimpbase.job_later where key = 'k' order by id")
    assert [row["id"] for row in rows] == ids


async def test_a_job_s_own_retry_decides_when_it_runs_again(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with(fails=True)
    own = Retry(max_attempts=2, first=timedelta(0), cap=timedelta(0))
    async with start(app):
        id = await app.ctx.queue.enqueue(numbers, 1, retry=own)
        await until(lambda: history(outside, "job_dead"))
    (dead,) = await history(outside, "job_dead")
    assert (dead["id"], dead["reason"], len(errors_of(dead))) == (id, "exhausted", 2)


async def test_a_job_s_own_limit_leaves_the_worker_s_times(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with(fails=True)
    async with start(app):
        await app.ctx.queue.enqueue(numbers, 1, max_attempts=1)
        await app.ctx.queue.enqueue(numbers, 2, max_attempts=2)
        await until(lambda: history(outside, "job_dead"))
        later = await until(lambda: outside.fetchrow("select *, due_at - now() as wait from chimpbase.job_later"))
    assert later is not None
    assert (later["payload"], later["wait"] > timedelta(hours=2)) == ("2", True)


@pytest.mark.parametrize("stored", ["{}", '{"retry": 7}', '{"retry": {"first": "x"}}', '{"retry": {"factor": -1}}'])
async def test_terms_that_make_no_sense_leave_the_worker_s_policy(
    start: Start, outside: asyncpg.Connection, stored: str
) -> None:
    app = app_with(fails=True)
    async with start(app, workers=False):
        await app.ctx.queue.enqueue(numbers, 1)
        await outside.execute("update chimpbase.job set terms = $1", stored)
    async with start(app):
        await until(lambda: outside.fetchval("select count(*) from chimpbase.job_later"))


async def test_a_job_past_its_deadline_is_not_begun(start: Start, outside: asyncpg.Connection) -> None:
    seen: list[int] = []
    app = app_with(seen)
    past, ahead = datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + AHEAD
    async with start(app):
        late = await app.ctx.queue.enqueue(numbers, 1, not_after=past)
        await app.ctx.queue.enqueue(numbers, 2, not_after=ahead)
        await until(lambda: history(outside, "job_dead"))
        await until(lambda: seen)
    (dead,) = await history(outside, "job_dead")
    assert (dead["id"], dead["reason"], seen) == (late, "expired", [2])
    assert [(kind, "not_after" in message) for _, kind, message in errors_of(dead)] == [("JobExpired", True)]


SURROGATE = chr(0xD800)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": True}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": 1e30}, "delay"),
        ({"run_at": datetime(2027, 1, 1)}, "time zone"),
        ({"run_at": "2027-01-01"}, "datetime"),
        ({"run_at": datetime.max.replace(tzinfo=UTC) - timedelta(hours=1), "delay": 1}, "not with both"),
        ({"not_after": 5}, "not_after"),
        ({"priority": 101}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1.0}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 10**30}, "max_attempts"),
        ({"max_attempts": 3, "retry": Retry()}, "not with both"),
        ({"retry": 3}, "Retry"),
        ({"retry": Retry(give_up_on=(OSError,))}, "exceptions"),
        ({"key": ""}, "empty"),
        ({"key": "a\0b"}, "control"),
        ({"key": SURROGATE}, "surrogate"),
        ({"key": "x" * 513}, "512"),
        ({"key": 7}, "text"),
        ({"priorty": 1}, "no option 'priorty'"),
    ],
)
async def test_a_wrong_option_is_refused_before_any_statement(start: Start, options: dict[str, Any], says: str) -> None:
    app = app_with()
    async with start(app, workers=False):
        with pytest.raises(UsageError, match=says):
            await app.ctx.queue.enqueue(numbers, 1, **options)
        with pytest.raises(UsageError, match=says):
            await app.ctx.queue.enqueue_many(numbers, [1, 2], **options)


async def test_an_absent_option_may_be_none(start: Start) -> None:
    app = app_with()
    async with start(app, workers=False):
        await app.ctx.queue.enqueue(numbers, 1, delay=None, run_at=None, key=None, retry=None, priority=None)


async def test_a_wrong_key_is_a_payload_error(start: Start) -> None:
    app = app_with()
    async with start(app, workers=False):
        with pytest.raises(PayloadError):
            await app.ctx.queue.enqueue(numbers, 1, key="")


async def sql(outside: asyncpg.Connection, options: object) -> Any:
    return await outside.fetchval("select chimpbase.enqueue('numbers', '1', $1)", json.dumps(options))


async def test_plain_sql_takes_the_same_options(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with()
    async with start(app, workers=False):
        retry = {"max_attempts": 4, "first": 0, "cap": 9}
        id = await sql(
            outside, {"priority": 7, "key": "k", "retry": retry, "not_after": "2999-01-01T00:00+01:00", "headers": {}}
        )
        later = await sql(outside, {"run_at": "2999-01-01T00:00:00.5Z", "max_attempts": 2})
        null = {"delay": None, "run_at": None, "key": None, "retry": None, "not_after": None}
        plain = await sql(outside, null)
    row = await the_row(outside, "select * from chimpbase.job where id = $1", id)
    assert (row["priority"], row["key"], row["max_attempts"]) == (7, "k", 4)
    assert json.loads(row["terms"]) == {"retry": retry, "not_after": "2998-12-31T23:00:00.000000Z"}
    row = await the_row(outside, "select * from chimpbase.job_later where id = $1", later)
    assert (row["due_at"], row["max_attempts"]) == (datetime(2999, 1, 1, 0, 0, 0, 500000, tzinfo=UTC), 2)
    row = await the_row(outside, "select * from chimpbase.job where id = $1", plain)
    assert (row["terms"], row["key"], row["priority"]) == (None, None, 0)


async def test_a_deadline_from_plain_sql_holds(start: Start, outside: asyncpg.Connection) -> None:
    seen: list[int] = []
    app = app_with(seen)
    async with start(app):
        await sql(outside, {"not_after": "2020-01-01T00:00Z"})
        await until(lambda: history(outside, "job_dead"))
    assert [row["reason"] for row in await history(outside, "job_dead")] == ["expired"]
    assert seen == []


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1},
        {"delay": "1"},
        {"delay": 1e300},
        {"run_at": "2027-01-01"},
        {"run_at": "tomorrow"},
        {"run_at": "2027-02-31T00:00:00Z"},
        {"run_at": 5},
        {"run_at": "2027-01-01T00:00:00Z", "delay": 1},
        {"not_after": "infinity"},
        {"priority": 1.5},
        {"priority": 1000},
        {"key": ""},
        {"key": 7},
        {"key": "a\nb"},
        {"key": "x" * 513},
        {"max_attempts": 0},
        {"max_attempts": 10**40},
        {"retry": 3},
        {"retry": {"tries": 3}},
        {"retry": {"first": 9, "cap": 1}},
        {"retry": {"max_attempts": 1}, "max_attempts": 1},
        {"headers": 1},
        {"prio": 1},
        [],
        None,
    ],
)
async def test_plain_sql_refuses_a_wrong_option(start: Start, outside: asyncpg.Connection, options: object) -> None:
    app = app_with()
    async with start(app, workers=False):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await sql(outside, options)
    assert getattr(refused.value, "sqlstate", None) == "CB002"
    assert await outside.fetchval("select count(*) from chimpbase.job") == 0
