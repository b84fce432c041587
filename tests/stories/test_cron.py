"""Cron: each instant once, and what becomes of those that were missed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, Occurrence
from chimpbase._core.values import Misfire
from tests.running import Start, is_idle, notes, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio


def ticking(expression: str, *, misfire: Misfire = "last", tz: str = "UTC") -> App:
    app = App("ticking")

    @app.cron(expression, misfire=misfire, tz=tz)
    async def tick(ctx: Ctx, due: Occurrence) -> None:
        await ctx.db.execute("insert into ledger values ('tick', $1)", due.due_at.isoformat())

    return app


@pytest.mark.parametrize(("misfire", "made_up"), [("skip", 0), ("last", 1), ("all", 3)])
async def test_what_is_made_up_for_after_a_stand_still(
    start: Start, outside: asyncpg.Connection, misfire: Misfire, made_up: int
) -> None:
    app = ticking("0 * * * *", misfire=misfire)
    async with start(app):
        pass
    # three full hours have passed, the last of them at least half an hour ago by the database's clock
    now: datetime = await the_value(outside, "select now()")
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    await outside.execute("update chimpbase.schedule set next_at = $1", first)
    due = [first + timedelta(hours=n) for n in range(3)]
    async with start(app):
        await until(lambda: outside.fetchval("select next_at > now() from chimpbase.schedule"))
        await until(lambda: is_idle(outside))
        made = [datetime.fromisoformat(note) for note in sorted(await notes(outside))]
    if misfire == "skip" and now - due[-1] <= timedelta(minutes=2):
        pytest.skip("the hour has just begun, so the last instant was not missed")
    assert made == (due[-made_up:] if made_up else [])


async def test_an_instant_that_was_fired_is_never_fired_again(start: Start, outside: asyncpg.Connection) -> None:
    app = ticking("0 * * * *", misfire="all")
    async with start(app):
        for _ in range(3):
            # as if the clock, or the row, were set back
            await outside.execute(
                "update chimpbase.schedule set next_at = date_trunc('hour', now()) - interval '1 hour'"
            )
            await until(lambda: outside.fetchval("select next_at > now() from chimpbase.schedule"))
        await until(lambda: is_idle(outside))
        assert len(await notes(outside)) == 2


async def test_several_schedulers_fire_each_instant_once_and_in_time(start: Start, outside: asyncpg.Connection) -> None:
    apps = [ticking("* * * * * *") for _ in range(3)]
    async with start(apps[0]), start(apps[1]), start(apps[2]):
        await until(lambda: enough(outside, 3))
    ticks = [datetime.fromisoformat(note) for note in sorted(await notes(outside))]
    assert ticks == [ticks[0] + timedelta(seconds=n) for n in range(len(ticks))]
    late = await outside.fetch("select fired_at - due_at from chimpbase.occurrence")
    assert all(timedelta(0) <= row[0] < timedelta(seconds=1) for row in late)


async def test_a_changed_expression_takes_effect_and_an_unchanged_one_keeps_its_place(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(ticking("0 0 1 1 *")):
        pass
    await outside.execute("update chimpbase.schedule set next_at = '2001-01-01 00:00:00+00'")
    async with start(ticking("0 0 1 1 *"), workers=False):
        assert await outside.fetchval("select next_at from chimpbase.schedule") == datetime(2001, 1, 1, tzinfo=UTC)
    async with start(ticking("0 0 2 1 *"), workers=False):
        next_at: datetime = await the_value(outside, "select next_at from chimpbase.schedule")
        assert (next_at.day, next_at.month) == (2, 1)
        assert next_at > datetime.now(UTC)


async def test_a_paused_schedule_does_not_fire(start: Start, outside: asyncpg.Connection) -> None:
    async with start(ticking("* * * * * *")):
        await until(lambda: enough(outside, 1))
        await outside.execute("update chimpbase.schedule set paused_at = now()")
        fired = await outside.fetchval("select count(*) from chimpbase.occurrence")
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(1.5, passed.set)
        await passed.wait()
        assert await outside.fetchval("select count(*) from chimpbase.occurrence") == fired


async def enough(outside: asyncpg.Connection, n: int) -> bool:
    return len(await notes(outside)) >= n
