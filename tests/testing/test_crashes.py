"""Crash everywhere: a run that is killed at any checkpoint gives the same, and does everything once."""

from __future__ import annotations

import pytest

from chimpbase import App, Ctx, Signal, Wf, step
from chimpbase.testing import rehearse

pytestmark = pytest.mark.anyio
go = Signal("go", int)
sent: list[str] = []


@step
async def book(ctx: Ctx, run: str) -> int:
    await ctx.kv.set(f"{run}:booked", await ctx.kv.get(f"{run}:booked", 0) + 1)
    return 1


async def send(run: str) -> int:
    sent.append(run)
    return 1


def build() -> App:
    app = App("crashes", [book])

    @app.workflow("trip")
    async def trip(wf: Wf, n: int) -> int:
        total = await book(wf, wf.id)
        await wf.sleep(60)
        total += await book(wf, wf.id)
        return total + (await wf.wait(go) or 0)

    @app.workflow("careless")
    async def careless(wf: Wf, n: int) -> int:
        return await wf.step("send", send, wf.id)

    return app


async def booked(ctx: Ctx, run: str) -> int:
    return await ctx.kv.get(f"{run}:booked", 0)


async def times_sent(ctx: Ctx, run: str) -> int:
    return sent.count(run)


async def test_transactional_steps_are_done_once_wherever_a_run_crashes() -> None:
    async with rehearse(build()) as t:
        assert await t.crash_everywhere("trip", 1, signals=[(go, 5)], effects=booked) >= 10
        assert await t.result("crash-0") == 7


async def test_an_effect_outside_the_database_that_is_done_twice_is_found_out() -> None:
    async with rehearse(build()) as t:
        with pytest.raises(AssertionError, match="Crashed before checkpoint"):
            await t.crash_everywhere("careless", 1, effects=times_sent)
