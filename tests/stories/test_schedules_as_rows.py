"""Schedules fire at the instants that a plain computation names, whatever is made, changed, paused and removed.

The clock goes on in real time while a test looks, so what an answer depends on is computed for the moments before and
after, and the answer is one of the two.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase import App, Ctx, Occurrence, every
from chimpbase._core.cron import GRACE, Cadence
from chimpbase._core.values import Misfire
from chimpbase.errors import NotFound
from chimpbase.testing import Rehearsal, rehearse

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
CASES = int(os.environ.get("CHIMPBASE_TEST_CASES", "10"))

NAMES = ("a", "b")
CADENCES = (every(minutes=7), Cadence("*/10 * * * *"), Cadence("0,30 * * * *", "Asia/Kolkata"), Cadence("30 2 * * *"))
MOST = 3
NAME = st.sampled_from(NAMES)
MADE = st.tuples(st.just("schedule"), NAME, st.sampled_from(CADENCES), st.sampled_from(["last", "all", "skip"]))
STOPPED = st.tuples(st.sampled_from(["pause", "resume", "resume"]), NAME)
PASSED = st.tuples(st.just("advance"), st.integers(1, 40), st.booleans())
DEED = st.one_of(MADE, STOPPED, STOPPED, PASSED, PASSED, PASSED, st.tuples(st.just("remove"), NAME))
#: Deeds, and whether each is taken back.
PLAN = st.lists(st.tuples(DEED, st.sampled_from([False, False, False, True])), min_size=8, max_size=12)


class _TakenBackError(Exception):
    pass


@dataclass
class Row:
    cadence: Cadence
    misfire: Misfire
    next_at: datetime
    paused: bool = False

    def aim(self, before: datetime, after: datetime, found: datetime) -> None:
        assert found in {self.cadence.next_after(before), self.cadence.next_after(after)}
        self.next_at = found

    def owed(self, until: datetime) -> list[datetime]:
        return self.cadence.occurrences(self.next_at - timedelta(seconds=1), until, 1000)

    def made_up(self, now: datetime) -> list[datetime]:
        """What is left of those that were missed, when they are looked at together."""
        owed = self.owed(now)
        match self.misfire:
            case "all":
                return owed[-MOST:]
            case "last":
                return owed[-1:]
            case "skip":
                return [at for at in owed[-1:] if now - at <= GRACE]


@dataclass
class Checked:
    t: Rehearsal
    fired: list[tuple[str, datetime]]
    rows: dict[str, Row] = field(default_factory=dict)

    async def check(self, plan: list[tuple[tuple[Any, ...], bool]]) -> None:
        for name, cadence, misfire in zip(NAMES, CADENCES, ("skip", "last"), strict=False):
            await self._do(("remove", name), taken_back=False)
            await self._do(("schedule", name, cadence, misfire), taken_back=False)
        await self._do(("pause", NAMES[1]), taken_back=False)  # so that many a plan resumes what has rested
        for deed, taken_back in plan:
            if deed[0] == "advance":
                await self._advance(timedelta(minutes=deed[1]), stopping=deed[2])
            else:
                await self._do(deed, taken_back=taken_back)
            async with self.t.transaction() as ctx:
                found = {one.name: one for one in await ctx.cron.list()}
            assert {name: (one.cadence, one.next_at, one.paused_at is not None) for name, one in found.items()} == {
                name: (row.cadence, row.next_at, row.paused) for name, row in self.rows.items()
            }

    async def _do(self, deed: tuple[Any, ...], *, taken_back: bool) -> None:
        before = await self.t.now()
        try:
            async with self.t.transaction() as ctx:
                try:
                    found = await _deed(ctx, deed)
                except NotFound:
                    assert deed[1] not in self.rows
                    return
                if taken_back:
                    raise _TakenBackError
        except _TakenBackError:
            return
        self._learn(deed, found, before, await self.t.now())

    def _learn(self, deed: tuple[Any, ...], found: datetime, before: datetime, after: datetime) -> None:
        row = self.rows.get(deed[1])
        match deed:
            case ("schedule", name, cadence, misfire):
                if row is None or row.cadence != cadence:
                    self.rows[name] = Row(cadence, misfire, found, paused=row is not None and row.paused)
                    self.rows[name].aim(before, after, found)
                else:
                    row.misfire = misfire
            case ("remove", name):
                self.rows.pop(name, None)
            case ("pause", _):
                assert row is not None
                row.paused = True
            case ("resume", _):
                assert row is not None
                if row.paused:
                    row.paused = False
                    row.aim(before, after, found)
            case _:
                raise AssertionError(deed)

    async def _advance(self, by: timedelta, *, stopping: bool) -> None:
        """Stopping at every instant on the way, or missing all of them but what is due in the end."""
        self.fired.clear()
        before = await self.t.now()
        await self.t.advance(by, every_occurrence=stopping, raising=True)
        after = await self.t.now()
        for name in NAMES:
            fired = sorted(at for of, at in self.fired if of == name)
            row = self.rows.get(name)
            if row is None or row.paused:
                assert fired == []
                continue
            async with self.t.transaction() as ctx:
                found = (await ctx.cron.get(name)).next_at
            ends = (before + by, after)
            assert fired in [row.owed(end) if stopping else row.made_up(end) for end in ends]
            row.aim(*ends, found)


async def _deed(ctx: Ctx, deed: tuple[Any, ...]) -> datetime:
    """Do it; the instant that the schedule aims at then."""
    match deed:
        case ("schedule", name, cadence, misfire):
            made = await ctx.cron.schedule(name, cadence, to="note", payload=name, misfire=misfire, max_missed=MOST)
            return made.next_at
        case ("remove", name):
            await ctx.cron.remove(name)
            return datetime.min
        case (verb, name):
            await getattr(ctx.cron, verb)(name)
            return (await ctx.cron.get(name)).next_at
        case _:
            raise AssertionError(deed)


async def test_schedules_fire_when_a_plain_computation_says(dsn: str) -> None:
    app, fired, loop = App("rows"), list[tuple[str, datetime]](), asyncio.get_running_loop()

    @app.cron(name="note")
    async def note(ctx: Ctx, due: Occurrence[str]) -> None:
        fired.append((due.payload, due.due_at))

    async with rehearse(app, database_url=dsn) as t:
        checked = Checked(t, fired)

        @settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
        @given(PLAN)
        def compare(plan: list[tuple[tuple[Any, ...], bool]]) -> None:
            asyncio.run_coroutine_threadsafe(checked.check(plan), loop).result(timeout=30)

        await asyncio.to_thread(compare)
