"""Bind: what is done with a bound ctx is a part of the caller's transaction, and of nothing else."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue, SyncCtx
from chimpbase._core.errors import (
    AlreadyStarted,
    CheckViolation,
    NotFound,
    NotRegistered,
    PayloadError,
    QueryError,
    UniqueViolation,
    UsageError,
)
from tests.app.bind.callers import CALLERS, Caller, calling
from tests.app.bind.shop import Ship, paid, placed, ships, shop
from tests.running import Start, left_over, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def do_everything(caller: Caller, ctx: Any) -> None:
    await caller.do(ctx.db.execute, "insert into ledger values ('bound', $1)", "written")
    await caller.do(ctx.queue.enqueue, ships, Ship("a"))
    await caller.do(ctx.queue.enqueue, "order.ship", {"order": "b"}, delay=60, priority=3, max_attempts=2)
    await caller.do(ctx.pubsub.publish, placed, Ship("c"))
    await caller.do(ctx.workflow.start, "checkout", "d", id="run")
    await caller.do(ctx.workflow.start, "checkout", "e", id="run later", delay=timedelta(hours=1))
    await caller.do(ctx.workflow.signal, "run", paid, True)
    await caller.do(ctx.kv.set, "forever", {"n": [1, None]})
    await caller.do(ctx.kv.set, "for a while", "soon gone", ttl=60)
    await caller.do(ctx.kv.set, "never", 1)
    assert await caller.do(ctx.kv.delete, "never") is True


EVERYTHING = {"job": 3, "job_later": 2, "event": 1, "run": 2, "signal": 1, "kv": 2}


async def test_what_was_done_exists_once_the_caller_has_committed_and_not_before(
    app: App, caller: Caller, outside: asyncpg.Connection
) -> None:
    ctx = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    await do_everything(caller, ctx)
    assert await caller.do(ctx.kv.get, "forever") == {"n": [1, None]}
    assert (await caller.do(ctx.workflow.get, "run")).input == "d"
    assert await left_over(outside) == {}
    assert await notes(outside) == []
    await caller.commit()
    assert await left_over(outside) == EVERYTHING
    assert await notes(outside) == ["written"]


async def test_nothing_exists_after_the_caller_has_rolled_back(
    app: App, caller: Caller, outside: asyncpg.Connection
) -> None:
    await caller.begin()
    await do_everything(caller, await caller.do(app.bind, caller.bindable))
    await caller.rollback()
    assert await left_over(outside) == {}
    assert await notes(outside) == []


async def test_a_savepoint_that_the_caller_takes_back_takes_the_work_with_it(
    app: App, caller: Caller, outside: asyncpg.Connection
) -> None:
    ctx = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    await caller.do(ctx.queue.enqueue, ships, Ship("before"))
    finish = await caller.savepoint()
    await do_everything(caller, ctx)
    await finish(False)
    finish = await caller.savepoint()
    await caller.do(ctx.queue.enqueue, ships, Ship("inside"))
    await finish(True)
    await caller.commit()
    assert await left_over(outside) == {"job": 2}


@pytest.mark.parametrize("action", ["place", "place_plainly"])
async def test_an_action_runs_inside_and_its_failure_takes_back_only_its_own(
    app: App, caller: Caller, outside: asyncpg.Connection, action: str
) -> None:
    ctx = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    await caller.execute("insert into ledger values ('caller', 'mine')")
    with pytest.raises(ZeroDivisionError):
        await caller.do(ctx.call, action, "lost", fail=True)
    assert await caller.do(ctx.call, action, "kept") == "placed kept"
    assert await left_over(outside) == {}
    await caller.commit()
    assert await notes(outside) == ["mine", "kept"]
    assert await left_over(outside) == {"job": 1}


async def test_an_action_survives_an_error_of_the_database_in_another(
    app: App, caller: Caller, outside: asyncpg.Connection
) -> None:
    await outside.execute("create unique index ledger_note on ledger (note)")
    ctx = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    await caller.do(ctx.call, "place", "once")
    with pytest.raises(UniqueViolation) as caught:
        await caller.do(ctx.call, "place", "once")
    assert (caught.value.sqlstate, caught.value.constraint, caught.value.table) == ("23505", "ledger_note", "ledger")
    assert caught.value.detail == "Key (note)=(once) already exists."
    assert type(caught.value.__cause__).__module__.partition(".")[0] in {"asyncpg", "psycopg"}
    # a value may be a secret, and a traceback is for the log
    assert "(once)" not in "".join(traceback.format_exception(caught.value))
    await caller.do(ctx.call, "place", "twice")
    await caller.commit()
    assert await notes(outside) == ["once", "twice"]


async def test_errors_are_those_of_the_tree(app: App, caller: Caller, outside: asyncpg.Connection) -> None:
    await outside.execute("alter table ledger add check (note <> 'bad')")
    ctx = await caller.do(app.bind, caller.bindable)
    expected: list[tuple[type[Exception], str, Any, tuple[Any, ...]]] = [
        (NotRegistered, "did you mean 'order.ship'", ctx.queue.enqueue, ("order.shp",)),
        (NotRegistered, "No queue named 'unheard'", ctx.queue.enqueue, (Queue("unheard"), 1)),
        (CheckViolation, "note", ctx.db.execute, ("insert into ledger values ('caller', 'bad')",)),
        (QueryError, 'relation "nowhere" does not exist', ctx.db.fetch, ("select from nowhere",)),
        (NotFound, "No run with id 'nobody'", ctx.workflow.signal, ("nobody", paid, True)),
        (NotFound, "No run with id 'nobody'", ctx.workflow.get, ("nobody",)),
        (UsageError, "the transaction belongs to ctx", ctx.db.execute, ("commit",)),
    ]
    for kind, message, verb, args in expected:
        await caller.begin()
        with pytest.raises(kind, match=message):
            await caller.do(verb, *args)
        await caller.rollback()
    await caller.begin()
    await caller.do(ctx.workflow.start, "checkout", "a", id="same")
    with pytest.raises(AlreadyStarted):
        await caller.do(ctx.workflow.start, "checkout", "a", id="same")
    # a conflict is an answer, and the caller's transaction goes on
    assert await caller.do(ctx.kv.get, "a") is None
    with pytest.raises(CheckViolation):
        await caller.do(ctx.db.execute, "insert into ledger values ('caller', 'bad')")
    with pytest.raises(QueryError, match="Roll back, or run"):
        await caller.do(ctx.kv.get, "a")
    await caller.rollback()


async def test_a_wrong_payload_is_refused_before_any_statement(
    app: App, caller: Caller, outside: asyncpg.Connection
) -> None:
    ctx = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    with pytest.raises(PayloadError):
        await caller.do(ctx.queue.enqueue, "order.ship", {"order": 1})
    with pytest.raises(PayloadError):
        await caller.do(ctx.workflow.start, "checkout", 1)
    # nothing reached the server, or its transaction would have failed
    await caller.do(ctx.queue.enqueue, ships, Ship("right"))
    await caller.commit()
    assert await left_over(outside) == {"job": 1}


VALUES = [
    ("int", 2**31 - 1),
    ("bigint", -(2**63)),
    ("float8", 0.1),
    ("numeric", Decimal("12.340")),
    ("text", "100% 'sure' \\ $1 :x %(p1)s"),
    ("bytea", b"\x00\xff"),
    ("boolean", True),
    ("timestamptz", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
    ("interval", timedelta(days=3, microseconds=5)),
    ("uuid", UUID(int=7)),
    ("int[]", [1, None, 3]),
    ("int[]", []),
    ("text[]", ["a", None, 'b"%,c']),
    ("interval[]", [None, timedelta(seconds=1)]),
    ("jsonb", {"a": [1, "2", None]}),
    ("jsonb", [1, {"b": "%s"}]),
    ("json", ["only", "text"]),
    ("jsonb", "a text"),
    ("jsonb", 5),
    ("jsonb", None),
]


async def test_values_come_back_as_they_went_in(app: App, caller: Caller, outside: asyncpg.Connection) -> None:
    ctx = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    for kind, value in VALUES:
        sql = f"select $1::{kind} as a, '100%' as b, $1::{kind} as c /* 5% of $9 */"
        row = await caller.do(ctx.db.fetch_one, sql, value)
        assert row == {"a": value, "b": "100%", "c": value}, kind
    await caller.rollback()


async def test_the_callers_sql_reads_and_counts(app: App, caller: Caller, outside: asyncpg.Connection) -> None:
    ctx = await caller.do(app.bind, caller.bindable)
    await caller.begin()
    await caller.execute("create temp table note (id int, body jsonb) on commit drop")
    assert await caller.do(ctx.db.execute, "insert into note values (1, $1), (2, $2)", {"n": 1}, {"n": 2}) == 2
    assert await caller.do(ctx.db.execute, "create temp table other () on commit drop") == 0
    assert await caller.do(ctx.db.fetch, "select * from note order by id") == [
        {"id": 1, "body": {"n": 1}},
        {"id": 2, "body": {"n": 2}},
    ]
    assert await caller.do(ctx.db.fetch_value, "select body from note where id = $1", 2) == {"n": 2}
    assert await caller.do(ctx.db.fetch_value, "select body from note where id = 3") is None
    assert await caller.do(ctx.db.fetch_one, "select '5%' as order where $1", True, as_=Ship) == Ship("5%")
    assert await caller.do(ctx.db.execute, "delete from note where body->>'n' like '%1%'") == 1
    with pytest.raises(QueryError, match="2"):
        await caller.do(ctx.db.fetch, "select $1::int, $2::int", 1)
    await caller.rollback()


@pytest.mark.parametrize("kind", CALLERS, ids=lambda kind: kind.__name__)
async def test_jobs_run_right_after_the_commit_in_the_app_that_runs_here(
    start: Start, outside: asyncpg.Connection, dsn: str, kind: type[Caller]
) -> None:
    app = shop()
    # whatever is found by polling is not found within this test
    async with start(app, poll=timedelta(minutes=30)), calling(kind, dsn) as caller:
        await caller.begin()
        ctx = await caller.do(app.bind, caller.bindable)
        await caller.do(ctx.queue.enqueue, ships, Ship("a"))
        await caller.do(ctx.pubsub.publish, placed, Ship("b"))
        await caller.do(ctx.call, "place", "c")
        await caller.commit()
        if not caller.tells:
            ctx.wake()
        await until(lambda: _sorted_notes(outside, ["a", "b", "c", "c"]))


async def test_jobs_are_found_by_the_poll_when_nobody_wakes(
    start: Start, outside: asyncpg.Connection, dsn: str
) -> None:
    app = shop()
    async with start(app):
        other = await asyncpg.connect(dsn)
        async with other.transaction():
            await shop().bind(other).queue.enqueue(ships, Ship("a"))
        await other.close()
        await until(lambda: _sorted_notes(outside, ["a"]))


async def test_a_bound_ctx_belongs_to_no_job_and_waits_for_no_result(
    app: App, caller: Caller, outside: asyncpg.Connection
) -> None:
    ctx = await caller.do(app.bind, caller.bindable)
    assert isinstance(ctx, SyncCtx if caller.is_sync else Ctx)
    with pytest.raises(UsageError, match="no ctx.job"):
        _ = ctx.job
    await caller.begin()
    with pytest.raises(UsageError, match="hold your transaction open"):
        await caller.do(ctx.workflow.result, "run")
    with pytest.raises(UsageError, match="hold your transaction open"):
        await caller.do(ctx.workflow.result, "run", timeout=1)
    await caller.rollback()


async def _sorted_notes(outside: asyncpg.Connection, expected: list[str]) -> bool:
    return sorted(await notes(outside)) == expected
