"""What happens when the job of the occurrence before has not ended; jitter; who fires what."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Occurrence, Queue, every
from chimpbase._core.cron import spread
from chimpbase._core.values import Overlap
from chimpbase.testing import rehearse
from tests.running import Start, is_idle, notes, the_row, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

BACK = "update chimpbase.schedule set next_at = date_trunc('hour', now()) - $1 * interval '1 hour'"
FIRED = "select count(*) from chimpbase.occurrence where state = $1"


def slow(overlap: Overlap, **terms: Any) -> tuple[App, dict[str, int], asyncio.Event]:
    app, seen, go = App("slow"), {"now": 0, "most": 0, "begun": 0, "cancelled": 0}, asyncio.Event()

    @app.cron("0 * * * *", overlap=overlap, **terms)
    async def work(ctx: Ctx, due: Occurrence) -> None:
        seen["begun"] += 1
        seen["now"] += 1
        seen["most"] = max(seen["most"], seen["now"])
        try:
            await go.wait()
            await ctx.db.execute("insert into ledger values ('work', $1)", due.due_at.isoformat())
        except asyncio.CancelledError:
            seen["cancelled"] += 1
            raise
        finally:
            seen["now"] -= 1

    return app, seen, go


async def advanced(outside: asyncpg.Connection) -> bool:
    return bool(await the_value(outside, "select next_at > now() from chimpbase.schedule"))


async def twice(outside: asyncpg.Connection, seen: dict[str, int]) -> None:
    """One occurrence begins, and while it runs the next one is due."""
    await outside.execute(BACK, 0)
    await until(lambda: seen["begun"])
    await until(lambda: advanced(outside))
    # as if that had been an hour ago
    await outside.execute("update chimpbase.occurrence set due_at = due_at - interval '1 hour'")
    await outside.execute("update chimpbase.schedule set last_at = last_at - interval '1 hour'")
    await outside.execute(BACK, 0)
    await until(lambda: advanced(outside))


async def test_allow_lets_both_run(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, go = slow("allow")
    async with start(app):
        await twice(outside, seen)
        await until(lambda: seen["most"] == 2)
        go.set()
        await until(lambda: is_idle(outside))
    assert len(await notes(outside)) == 2


async def test_skip_leaves_out_what_is_due_while_one_runs(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, go = slow("skip")
    async with start(app):
        await twice(outside, seen)
        assert await outside.fetchval(FIRED, "skipped") == 1
        go.set()
        await until(lambda: is_idle(outside))
        assert seen["begun"] == 1
        # and what is due after it has ended runs
        await outside.execute("delete from chimpbase.occurrence where state = 'skipped'")
        await outside.execute(BACK, 0)
        await until(lambda: advanced(outside))
        await until(lambda: is_idle(outside))
    assert len(await notes(outside)) == 2


async def test_queue_runs_one_after_the_other_in_order(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, go = slow("queue", misfire="all")
    apps = [app, slow("queue", misfire="all")[0]]
    async with start(apps[0]):
        await outside.execute(BACK, 3)
        await until(lambda: seen["begun"])
        await until(lambda: advanced(outside))
        assert await outside.fetchval(FIRED, "waiting") == 3
        go.set()
        await until(lambda: finished(outside, 4))
        assert not await the_value(outside, "select waiting from chimpbase.schedule")
    made = await notes(outside)
    assert made == sorted(made)
    assert (len(made), seen["most"]) == (4, 1)


async def test_several_processes_release_what_waits_once(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, go = slow("queue", misfire="all")
    other = App("slow", register=[*app.definitions()])
    async with start(app), start(other):
        await outside.execute(BACK, 9)
        await until(lambda: seen["begun"])
        go.set()
        await until(lambda: finished(outside, 10))
    made = await notes(outside)
    assert made == sorted(set(made))
    assert seen["most"] == 1


async def finished(outside: asyncpg.Connection, count: int) -> bool:
    return len(await notes(outside)) >= count


async def test_cancel_previous_ends_the_one_that_runs(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, go = slow("cancel_previous")
    async with start(app):
        await twice(outside, seen)
        await until(lambda: seen["cancelled"])
        await until(lambda: seen["begun"] == 2)
        go.set()
        await until(lambda: is_idle(outside))
    last = await the_value(outside, "select max(due_at) from chimpbase.occurrence")
    assert [datetime.fromisoformat(note) for note in await notes(outside)] == [last]
    outcomes = await outside.fetch("select outcome from chimpbase.job_done order by id")
    assert [row[0] for row in outcomes] == ["cancelled", "completed"]


async def test_an_instant_that_was_fired_cancels_nothing(start: Start, outside: asyncpg.Connection) -> None:
    app, seen, go = slow("cancel_previous")
    async with start(app):
        for _ in range(3):
            await outside.execute(BACK, 0)
            await until(lambda: advanced(outside))
            await until(lambda: seen["begun"])
        go.set()
        await until(lambda: is_idle(outside))
    assert (seen["begun"], seen["cancelled"]) == (1, 0)


async def test_cancel_previous_takes_back_a_job_that_nobody_runs_yet(dsn: str) -> None:
    app, ran = App("waiting"), list[int]()
    numbers = Queue("numbers", int)

    @app.worker(numbers)
    async def work(ctx: Ctx, number: int) -> None:
        ran.append(number)

    async with rehearse(app, database_url=dsn) as t:
        async with t.transaction() as ctx:
            await ctx.cron.schedule(
                "a", every(hours=1), to=numbers, payload=1, overlap="cancel_previous", jitter=timedelta(hours=23)
            )
        # each job is put off by hours, and the next occurrence overtakes it
        await t.advance(timedelta(hours=48))
        async with t.transaction() as ctx:
            fired = await ctx.db.fetch_value("select count(*) from chimpbase.occurrence where state = 'fired'")
            done = await ctx.db.fetch_value("select count(*) from chimpbase.job_done where outcome = 'cancelled'")
        assert fired == 48
        assert done + len(ran) in (fired, fired - 1)
        assert done > len(ran)


async def test_jitter_puts_each_job_off_by_the_same_in_every_process(dsn: str) -> None:
    app, ran = App("spread"), list[tuple[datetime, datetime]]()

    @app.cron("0 * * * *", jitter=timedelta(minutes=30))
    async def hourly(ctx: Ctx, due: Occurrence) -> None:
        ran.append((due.due_at, await ctx.db.fetch_value("select chimpbase.clock()")))

    async with rehearse(app, database_url=dsn) as t:
        await t.advance(timedelta(hours=12, minutes=31))
    assert len(ran) in (12, 13)
    for due_at, at in ran:
        put_off = spread("hourly", due_at, timedelta(minutes=30))
        assert timedelta(0) <= at - due_at - put_off < timedelta(seconds=20)
    assert len({at - due_at for due_at, at in ran}) > 6


async def test_a_schedule_that_nobody_can_run_makes_no_jobs_until_somebody_can(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, seen, go = slow("allow")
    go.set()
    async with start(app, workers=False):
        pass
    await outside.execute(BACK, 5)
    idle = App("another")

    @idle.cron("* * * * * *")
    async def tick(ctx: Ctx, due: Occurrence) -> None: ...

    async with start(idle):
        await until(lambda: fired_by(outside, "tick", 2))
        assert await outside.fetchval("select count(*) from chimpbase.occurrence where schedule = 'work'") == 0
        # nor is it deleted by a process that does not know it
        assert await outside.fetchval("select count(*) from chimpbase.schedule") == 2
    async with start(app):
        await until(lambda: seen["begun"])
    assert seen["begun"] == 1


async def fired_by(outside: asyncpg.Connection, schedule: str, count: int) -> bool:
    sql = "select count(*) >= $2 from chimpbase.occurrence where schedule = $1"
    return bool(await the_value(outside, sql, schedule, count))


async def test_a_thousand_schedules_due_at_once_cost_a_few_statements(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, ran = App("many"), list[int]()
    numbers = Queue("numbers", int)

    @app.worker(numbers, concurrency=100)
    async def work(ctx: Ctx, number: int) -> None:
        ran.append(number)

    async with start(app):
        queue = await the_value(outside, "select id from chimpbase.queue where name = 'numbers'")
        await outside.execute(
            "insert into chimpbase.schedule (name, expression, tz, queue, next_at, declared, payload) "
            "select 's' || n, '0 0 1 1 *', 'UTC', $1, date_trunc('year', now()), false, n::text "
            "from generate_series(1, 1000) n",
            queue,
        )
        await until(lambda: len(ran) >= 1000)
        await until(lambda: is_idle(outside))
    assert sorted(ran) == list(range(1, 1001))
    # not one transaction for each of them
    assert await the_value(outside, "select count(distinct xmin::text) from chimpbase.occurrence") <= 3
    left = await the_row(outside, "select count(*), min(next_at) > now() from chimpbase.schedule")
    assert tuple(left) == (1000, True)


async def test_a_changed_cadence_does_not_fire_an_instant_twice(start: Start, outside: asyncpg.Connection) -> None:
    def ticking(expression: str) -> App:
        app = App("ticking")

        @app.cron(expression, name="tick")
        async def tick(ctx: Ctx, due: Occurrence) -> None:
            await ctx.db.execute("insert into ledger values ('tick', $1)", due.due_at.isoformat())

        return app

    for number in range(3):
        async with start(ticking(("* * * * * *", "0-59 * * * * *")[number % 2])):
            await until(partial(finished, outside, 2 * (number + 1)))
    made = await notes(outside)
    assert len(made) == len(set(made))
