"""Divergence: code that no longer fits a journal stops the run, with the fix, and nothing is done a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Signal, Wf, errors, step
from tests.running import Start, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio
go = Signal("go", int)


async def _note(ctx: Ctx, note: str) -> str:
    await ctx.db.execute("insert into ledger values ('step', $1)", note)
    return note


@step
async def charge(ctx: Ctx, amount: str) -> str:
    return await _note(ctx, amount)


@step(name="charge-card")
async def charge_card(ctx: Ctx, amount: str) -> str:
    return await _note(ctx, amount)


@step(name="charge-card", was="charge")
async def renamed(ctx: Ctx, amount: str) -> str:
    return await _note(ctx, amount)


@step
async def check(ctx: Ctx, amount: str) -> str:
    return await _note(ctx, f"check {amount}")


async def before(wf: Wf) -> str:
    await charge(wf, "10")
    await wf.wait(go)
    return "done"


async def with_other_arguments(wf: Wf) -> str:
    await charge(wf, "11")
    await wf.wait(go)
    return "done"


async def under_another_name(wf: Wf) -> str:
    await charge_card(wf, "10")
    await wf.wait(go)
    return "done"


async def under_a_name_it_says(wf: Wf) -> str:
    await renamed(wf, "10")
    await wf.wait(go)
    return "done"


async def with_a_step_before(wf: Wf) -> str:
    await check(wf, "10")
    await charge(wf, "10")
    await wf.wait(go)
    return "done"


async def with_a_patch_before(wf: Wf) -> str:
    if wf.patched("check"):
        await check(wf, "10")
    await charge(wf, "10")
    await wf.wait(go)
    if wf.patched("receipt"):
        await check(wf, "11")
    return "done"


async def without_the_step(wf: Wf) -> str:
    await wf.wait(go)
    return "done"


async def under_another_name_with_other_arguments(wf: Wf) -> str:
    await charge_card(wf, "11")
    await wf.wait(go)
    return "done"


async def under_another_name_after_the_wait(wf: Wf) -> str:
    await wf.wait(go)
    await charge_card(wf, "11")
    return "done"


async def before_with_more_to_do(wf: Wf) -> str:
    await charge(wf, "10")
    await wf.wait(go)
    await check(wf, "10")
    return "done"


async def with_more_to_do_and_without_the_first(wf: Wf) -> str:
    await wf.wait(go)
    await check(wf, "10")
    return "done"


async def before_in_a_loop(wf: Wf) -> str:
    for n in range(2):
        await wf.step(f"send-{n}", len, str(n))
    await wf.wait(go)
    return "done"


async def with_a_step_before_the_loop(wf: Wf) -> str:
    await check(wf, "10")
    return await before_in_a_loop(wf)


async def deployed(
    start: Start,
    code: Callable[[Wf], Any],
    outside: asyncpg.Connection,
    *,
    first: Callable[[Wf], Any] = before,
    rested: bool = True,
) -> tuple[str, str | None, list[str]]:
    """What becomes of a run of `first` that waits, when `code` goes on with it: its status, error, and effects.

    One that had not `rested` was interrupted before the code that ran it was noted.
    """
    old, new = App("deploys"), App("deploys")
    old.workflow("flow")(first)  # type: ignore[arg-type]
    new.workflow("flow")(code)  # type: ignore[arg-type]
    async with start(old):
        async with old.transaction() as ctx:
            await ctx.workflow.start("flow", id="a")

        async def waits() -> bool:
            return (await old.ctx.workflow.get("a")).status == "waiting"

        await until(waits)
    if not rested:
        await outside.execute("update chimpbase.run set code = null")
    async with start(new):
        await new.ctx.workflow.signal("a", go, 1)
        try:
            await new.ctx.workflow.result("a", timeout=10)
        except errors.WorkflowFailed:
            pass
        run = await new.ctx.workflow.get("a")
    return run.status, run.error, await notes(outside)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (with_other_arguments, 'charge#1 was done with {"amount":"10"}'),
        (under_another_name, "@step(was='charge')"),
        (under_another_name_with_other_arguments, "@step(was='charge'), and the arguments of before"),
        (under_another_name_after_the_wait, "If charge-card#1 is new: put it behind wf.patched"),
    ],
)
async def test_what_would_be_done_twice_blocks_the_run(
    start: Start, outside: asyncpg.Connection, code: Callable[[Wf], Any], reason: str
) -> None:
    status, error, effects = await deployed(start, code, outside)
    assert (status, effects) == ("blocked", ["10"])
    assert reason in (error or "")
    # its slot is free, and with the old code back it goes on
    fixed = App("deploys")
    fixed.workflow("flow")(before)
    async with start(fixed):
        await fixed.ctx.workflow.retry("a")
        assert await fixed.ctx.workflow.result("a", timeout=10) == "done"
    assert await notes(outside) == ["10"]


@pytest.mark.parametrize(
    ("code", "effects"),
    [
        (under_a_name_it_says, ["10"]),
        (with_a_step_before, ["10", "check 10"]),
        (with_a_patch_before, ["10", "check 11"]),
        (without_the_step, ["10"]),
    ],
)
async def test_what_is_added_removed_or_said_goes_on(
    start: Start, outside: asyncpg.Connection, code: Callable[[Wf], Any], effects: list[str]
) -> None:
    assert await deployed(start, code, outside) == ("completed", None, effects)


@pytest.mark.parametrize(
    ("first", "code", "effects"),
    [
        (before_with_more_to_do, with_more_to_do_and_without_the_first, ["10", "check 10"]),
        (before_in_a_loop, with_a_step_before_the_loop, ["check 10"]),
    ],
)
async def test_a_step_that_the_old_code_had_too_is_no_renamed_one(
    start: Start,
    outside: asyncpg.Connection,
    first: Callable[[Wf], Any],
    code: Callable[[Wf], Any],
    effects: list[str],
) -> None:
    assert await deployed(start, code, outside, first=first) == ("completed", None, effects)


async def test_where_the_old_code_is_not_known_a_step_in_the_place_of_a_removed_one_blocks(
    start: Start, outside: asyncpg.Connection
) -> None:
    """Safety goes first: nobody can tell the removal from a second charge."""
    code, first = with_more_to_do_and_without_the_first, before_with_more_to_do
    status, error, effects = await deployed(start, code, outside, first=first, rested=False)
    assert (status, effects) == ("blocked", ["10"])
    assert "charge#1 was done with" in (error or "")


async def test_unchanged_code_that_goes_another_way_is_blocked(start: Start, outside: asyncpg.Connection) -> None:
    app, world = App("moody"), {"way": "a"}

    @app.workflow("moody")
    async def moody(wf: Wf) -> str:
        if world["way"] == "a":
            await charge(wf, "10")
        else:
            await check(wf, "20")
            await charge(wf, "10")
        await wf.wait(go)
        return "done"

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(moody, id="a")

        async def waits() -> bool:
            return (await app.ctx.workflow.get("a")).status == "waiting"

        await until(waits)
        world["way"] = "b"
        await app.ctx.workflow.signal("a", go, 1)
        with pytest.raises(errors.WorkflowFailed, match="unchanged code asks for check#1"):
            await app.ctx.workflow.result("a", timeout=10)
        assert await notes(outside) == ["10"]


async def test_time_chance_and_ids_are_the_same_in_every_activation(start: Start, outside: asyncpg.Connection) -> None:
    app = App("pure")
    seen: list[tuple[Any, ...]] = []

    @app.workflow("pure")
    async def pure(wf: Wf) -> None:
        await charge(wf, "1")
        seen.append((wf.uuid(), wf.uuid(), wf.random(), wf.now()))
        await wf.sleep(0.01)
        seen.append((wf.now() > seen[0][3],))
        await wf.wait(go, timeout=0.01)

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(pure, id="a")
        await app.ctx.workflow.result("a", timeout=10)
    assert len({one for one in seen if len(one) == 4}) == 1
    assert len(set(seen[0])) == 4
    assert {one for one in seen if len(one) == 1} == {(True,)}


async def test_branches_have_the_same_keys_whichever_is_faster(start: Start, outside: asyncpg.Connection) -> None:
    app, turn = App("branches"), {"n": 0}

    async def slowly(n: int) -> int:
        turn["n"] += 1
        for _ in range((n * 7 + turn["n"] * 3) % 5):  # another order each time
            await asyncio.get_running_loop().run_in_executor(None, int)
        return n

    async def pair(wf: Wf, n: int) -> int:
        first = await wf.step("slowly", slowly, n)
        await wf.sleep(0.001)
        return first + await wf.step("slowly", slowly, n * 10)

    @app.workflow("branches")
    async def branches(wf: Wf) -> list[Any]:
        two = await wf.gather(pair(wf, 1), pair(wf, 2))
        many = await wf.map(lambda n: pair(wf, n), [3, 4, 5], key=lambda n: n, limit=2)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pair(wf, n)) for n in (6, 7)]
        return [*two, *many, *(task.result() for task in tasks)]

    async with start(app):
        for n in range(5):
            async with app.transaction() as ctx:
                await ctx.workflow.start(branches, id=f"run {n}")
        for n in range(5):
            assert await app.ctx.workflow.result(f"run {n}", timeout=20) == [11, 22, 33, 44, 55, 66, 77]
        keys = await outside.fetch(
            "select array_agg(key order by key) from chimpbase.step join chimpbase.run on number = run group by run"
        )
    assert len({tuple(row[0]) for row in keys}) == 1


async def test_a_block_of_statements_commits_once_with_its_memory(start: Start, outside: asyncpg.Connection) -> None:
    app = App("blocks")

    @app.workflow("block")
    async def block(wf: Wf) -> list[Any]:
        async with wf.tx("book") as db:
            count = await db.execute("insert into ledger values ('tx', 'booked')")
            said = await db.fetch_value("select note from ledger where who = 'tx'")
        failed = ""
        try:
            async with wf.tx("fails") as db:
                await db.execute("insert into ledger values ('tx', 'never')")
                raise ValueError("no room")
        except errors.StepFailed as error:
            failed = str(error)
        await wf.sleep(0.01)
        return [count, said, failed]

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start(block, id="a")
        assert await app.ctx.workflow.result("a", timeout=10) == [1, "booked", "ValueError: no room"]
    assert await notes(outside) == ["booked"]


async def test_failed_attempts_are_counted_across_restarts(start: Start, outside: asyncpg.Connection) -> None:
    from chimpbase import Retry

    tries: list[int] = []

    def make() -> App:
        app = App("restarts")

        @step(retry=Retry(max_attempts=3, first=timedelta(seconds=6), cap=timedelta(seconds=6), jitter=0))
        async def fails(ctx: Ctx) -> None:
            tries.append(1)
            raise ValueError("always")

        @app.workflow("flow")
        async def flow(wf: Wf) -> None:
            await fails(wf)

        return app

    async def note() -> Any:
        return await outside.fetchval("select attempt from chimpbase.step where kind = 'retry'")

    app = make()
    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start("flow", id="a")
        for attempt in (1, 2):
            await until(lambda attempt=attempt: _equals(note, attempt))
            await until(lambda: outside.fetchval("select exists (select from chimpbase.job_later)"))
            await outside.execute("update chimpbase.step set result = '\"2000-01-01T00:00:00Z\"'")
            await outside.execute("update chimpbase.job_later set due_at = 'epoch'")
        with pytest.raises(errors.WorkflowFailed, match="always"):
            await app.ctx.workflow.result("a", timeout=10)
    assert len(tries) == 3


async def _equals(ask: Callable[[], Any], value: Any) -> bool:
    return bool(await ask() == value)
