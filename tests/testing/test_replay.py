"""Replay: the code of a workflow goes the same way over what its run wrote down, or the test fails."""

from __future__ import annotations

from datetime import timedelta

import pytest

from chimpbase import App, Ctx, Signal, Wf, errors, step
from chimpbase.testing import rehearse

pytestmark = pytest.mark.anyio

go = Signal("go", str)


@step
async def count(ctx: Ctx, by: int) -> int:
    await ctx.kv.set("counted", await ctx.kv.get("counted", 0) + by)
    return by


async def test_a_sound_run_meets_the_same_keys_wherever_it_is() -> None:
    app = App("sound", [count])

    @app.workflow("sound", version=1)
    async def sound(wf: Wf, n: int) -> int:
        total = 0
        for one in range(n):
            total += await count(wf, one)
        await wf.sleep(timedelta(days=1))
        await wf.wait(go, timeout=timedelta(days=1))
        return total

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(sound, 3, id="s")
        await t.drain()
        steps = ["count#1", "count#2", "count#3"]
        assert await t.crash_and_replay("s") == [*steps, "sleep#1"]
        await t.advance(timedelta(days=1))
        assert await t.crash_and_replay("s") == [*steps, "sleep#1", "wait:go#1"]
        await t.advance(timedelta(days=1))
        assert await t.result("s") == 3
        assert await t.crash_and_replay("s") == [*steps, "sleep#1", "wait:go#1"]
        async with t.transaction() as ctx:
            assert await ctx.kv.get("counted") == 3  # no replay counted again
        with pytest.raises(errors.NotFound):
            await t.crash_and_replay("nobody")


async def test_a_run_that_failed_fails_again() -> None:
    app = App("failing", [count])

    @app.workflow("failing", version=1)
    async def failing(wf: Wf) -> int:
        await count(wf, 1)
        raise ValueError("no such order")

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(failing, id="f")
        await t.drain()
        with pytest.raises(errors.WorkflowFailed, match="no such order"):
            await t.result("f")
        assert await t.crash_and_replay("f") == ["count#1"]


@pytest.mark.parametrize(
    ("way", "message"),
    [("skip", r"wrote \['first#1'\]"), ("more", r"went on to \['third#1'\]"), ("result", "completed with 2")],
)
async def test_a_run_whose_code_decides_by_the_world_is_found_out(way: str, message: str) -> None:
    app, world = App("moody"), {"way": "same"}

    async def one() -> int:
        return 1

    @app.workflow("moody", version=1)
    async def moody(wf: Wf) -> int:
        total = 0 if world["way"] == "skip" else await wf.step("first", one)
        total += await wf.step("second", one)
        if world["way"] == "more":
            total += await wf.step("third", one)
        return total + (world["way"] == "result")

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start(moody, id="m")
        await t.drain()
        assert await t.crash_and_replay("m") == ["first#1", "second#1"]
        world["way"] = way
        with pytest.raises(AssertionError, match=message):
            await t.crash_and_replay("m")
