"""What a run puts out while it runs: live, in order, once, and to the run's end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Signal, Stream, SyncCtx, Wf, errors, step
from chimpbase.testing import rehearse
from tests.running import Start, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio
progress = Stream("progress", int)
go = Signal("go", int)


def build() -> App:
    app = App("output", [progress])

    @app.workflow("job")
    async def job(wf: Wf, n: int) -> str:
        for part in range(n):
            await wf.emit(progress, part)
            await wf.sleep(1)
        return "done"

    @app.workflow("waiter")
    async def waiter(wf: Wf) -> str:
        await wf.emit(progress, 1)
        await wf.wait(go)
        await wf.emit(progress, 2)
        await wf.emit("words", {"said": "bye"})
        return "done"

    return app


async def put_out(ctx: Ctx, run: str) -> list[int]:
    return [entry.payload for entry in await ctx.stream.read(progress, limit=1000) if entry.key == run]


async def test_a_client_hears_a_run_while_it_runs_and_the_end(start: Start, outside: asyncpg.Connection) -> None:
    app, heard = build(), list[Any]()

    async def listen(stream: Any) -> None:
        heard.extend([entry.payload async for entry in app.ctx.workflow.handle("a").tail(stream)])

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start("waiter", id="a")
            await ctx.workflow.start("waiter", id="b")  # another run of the same stream is not heard
        tail = app.ctx.workflow.tail("a", progress)
        first = await anext(tail)
        assert (first.payload, first.key) == (1, "a")
        await app.ctx.workflow.signal("a", go, 1)
        assert [entry.payload async for entry in tail] == [2]
        # who comes late, or again, hears it from the beginning or from where it was
        assert [entry.payload async for entry in app.ctx.workflow.tail("a", progress)] == [1, 2]
        assert [entry.payload async for entry in app.ctx.workflow.tail("a", progress, after=first.position)] == [2]
        await listen("words")
        assert heard == [{"said": "bye"}]
        with pytest.raises(errors.NotFound):
            await anext(app.ctx.workflow.tail("nobody", progress))
        assert [entry.kind for entry in await app.ctx.workflow.history("a")] == ["emit", "wait", "emit", "emit"]


async def test_what_a_run_puts_out_is_there_once_wherever_it_crashes() -> None:
    async with rehearse(build()) as t:
        assert await t.crash_everywhere("job", 2, effects=put_out) >= 8
        async with t.transaction() as ctx:
            assert await put_out(ctx, "crash-0") == [0, 1]


async def test_a_plain_handler_hears_a_run_too(start: Start, outside: asyncpg.Connection) -> None:
    app = build()

    @app.action
    def listen(ctx: SyncCtx, run: str) -> list[int]:
        return [entry.payload for entry in ctx.workflow.tail(run, progress)]

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.workflow.start("waiter", id="a")
            await ctx.workflow.signal("a", go, 1)
        assert await app.call(listen, "a") == [1, 2]


async def test_other_output_is_no_divergence(start: Start, outside: asyncpg.Connection) -> None:
    @step
    async def write(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('step', 'written')")

    def with_output(*numbers: int) -> App:
        app = App("deploys", [progress])

        @app.workflow("flow")
        async def flow(wf: Wf) -> None:
            for number in numbers:
                await wf.emit(progress, number)
            await write(wf)
            await wf.wait(go)

        return app

    old, new = with_output(1), with_output(7, 8)
    async with start(old):
        async with old.transaction() as ctx:
            await ctx.workflow.start("flow", id="a")

        async def waits() -> bool:
            return (await old.ctx.workflow.get("a")).status == "waiting"

        await until(waits)
    async with start(new):
        await new.ctx.workflow.signal("a", go, 1)
        await new.ctx.workflow.result("a", timeout=10)
        assert [entry.payload async for entry in new.ctx.workflow.tail("a", progress)] == [1, 8]
    assert await notes(outside) == ["written"]


async def test_output_that_does_not_fit_fails_the_run_and_a_tail_of_a_blocked_run_ends() -> None:
    app = App("wrong", [progress])

    @app.workflow("wrong")
    async def wrong(wf: Wf) -> None:
        await wf.emit(progress, "one")  # type: ignore[call-overload]

    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.workflow.start("wrong", id="a")
        await t.advance(timedelta(seconds=1))
        with pytest.raises(errors.WorkflowFailed, match="payload of stream 'progress'"):
            await t.result("a")
        async with t.transaction() as ctx, asyncio.timeout(10):
            assert [entry async for entry in ctx.workflow.tail("a", progress)] == []
