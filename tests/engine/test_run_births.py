"""Runs that are started by the process that runs them: no claim, no load, no query for the result, and nothing lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Signal, Wf
from chimpbase._pg import lexer
from chimpbase.errors import AlreadyStarted, DatabaseError, NotRegistered, WorkflowFailed
from tests.running import Ear, Start, is_idle, listen_to_engine, listen_to_handlers, notes, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

go = Signal("go", int)
OF_RUNS = ("jobs.claim", "runs.", "run_")


def sent(*ears: Ear) -> list[str]:
    """What was sent for the sake of runs."""
    labels = [str(lexer.label(sql)) for ear in ears for sql in ear.heard]
    return [label for label in labels if label.startswith(OF_RUNS)]


def doubling(*, concurrency: int = 4) -> App:
    app = App("births")

    @app.step
    async def double(ctx: Ctx, n: int) -> int:
        await ctx.db.execute("insert into ledger values ('run', $1)", str(n))
        return 2 * n

    @app.workflow("double", concurrency=concurrency)
    async def flow(wf: Wf, n: int) -> int:
        return await double(wf, n)

    @app.workflow("wait")
    async def waiting(wf: Wf, n: int) -> int:
        return (await wf.wait(go) or 0) + n

    return app


async def test_a_run_for_a_free_slot_is_stored_and_ended_and_nothing_else_is_asked(start: Start, outside: Any) -> None:
    app = doubling()
    async with start(app, poll=timedelta(minutes=1)) as runtime:
        await _at_rest(app)
        engine, handlers = listen_to_engine(runtime, Ear()), listen_to_handlers(runtime, Ear())
        run = await app.ctx.workflow.start("double", 7)
        assert await run.result(timeout=10) == 14
        assert sent(engine) == ["run_births.start", "runs.finish"]
        assert sent(handlers) == ["runs.memo"]  # in the transaction of the step
        assert await is_idle(outside)


async def test_of_runs_started_together_under_one_id_one_starts(start: Start, outside: asyncpg.Connection) -> None:
    app = doubling()
    async with start(app):
        starts = [app.ctx.workflow.start("double", n, id=f"run {n % 3}") for n in range(9)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, AlreadyStarted)]
        assert len(refused) == 6
        assert [isinstance(one, AlreadyStarted) for one in outcomes[:3]] == [False] * 3  # the first of each
        assert {await app.ctx.workflow.handle(f"run {n}").result(timeout=10) for n in range(3)} == {0, 2, 4}
        assert sorted(await notes(outside)) == ["0", "1", "2"]


async def test_runs_started_together_keep_what_each_was_started_with(start: Start, outside: asyncpg.Connection) -> None:
    app = doubling()
    async with start(app, workers=False):
        starts = [
            app.ctx.workflow.start("double", n, id=f"run {9 - n}", priority=n, key=f"key {n}", attributes={"n": n})
            for n in range(9)
        ]
        await asyncio.gather(*starts)
    rows = await outside.fetch(
        "select run.id, run.input, run.attributes ->> 'n' as n, priority, key, job.sort from chimpbase.run "
        "join chimpbase.job on job.id = run.job and job.payload = run.number::text order by run.number"
    )
    found = [(row["id"], row["input"], row["n"], row["priority"], row["key"]) for row in rows]
    assert found == [(f"run {9 - n}", str(n), str(n), n, f"key {n}") for n in range(9)]
    assert [row["sort"] for row in rows] == sorted(row["sort"] for row in rows)


async def test_a_use_of_an_existing_run_gets_that_one(start: Start, outside: asyncpg.Connection) -> None:
    app = doubling()
    async with start(app):
        starts = [app.ctx.workflow.start("double", n, id="one", on_conflict="use_existing") for n in range(5)]
        results = {await run.result(timeout=10) for run in await asyncio.gather(*starts)}
        assert results == {0}


async def test_a_workflow_that_the_database_does_not_know_is_refused(start: Start, outside: asyncpg.Connection) -> None:
    app = doubling()
    async with start(app):
        await outside.execute("delete from chimpbase.workflow where name = 'double'")
        with pytest.raises(NotRegistered):
            await app.ctx.workflow.start("double", 7)


async def test_a_paused_queue_keeps_its_runs_waiting(start: Start, outside: asyncpg.Connection) -> None:
    app = doubling()
    async with start(app):
        await _at_rest(app)
        await outside.execute("update chimpbase.queue set paused_at = now() where name like '%double%'")
        run = await app.ctx.workflow.start("double", 7)
        assert await the_value(outside, "select process is null and attempt = 0 from chimpbase.job")
        await outside.execute("update chimpbase.queue set paused_at = null")
        assert await run.result(timeout=10) == 14


async def test_a_process_declared_dead_meanwhile_leaves_the_run_to_others(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = doubling()
    async with start(app):
        await _at_rest(app)
        await outside.execute("update chimpbase.process set dead_at = now()")
        run = await app.ctx.workflow.start("double", 7)
        assert await run.result(timeout=10) == 14
        await until(lambda: is_idle(outside))
    assert Counter(await notes(outside))["7"] == 1


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_answer_loses_no_run_and_no_slot(start: Start, outside: asyncpg.Connection, moment: str) -> None:
    app = doubling(concurrency=1)
    lost: list[str] = []

    def lose(sql: str) -> None:
        if not lost and lexer.label(sql) == "run_births.start":
            lost.append(sql)
            raise ConnectionResetError

    async with start(app, lease=timedelta(seconds=1)) as runtime:
        await _at_rest(app)
        listen_to_engine(runtime, Ear(before=lose) if moment == "before" else Ear(after=lose))
        with pytest.raises(DatabaseError):
            await app.ctx.workflow.start("double", 7, id="seven")
        run = await app.ctx.workflow.start("double", 8)
        assert await run.result(timeout=10) == 16
        if moment == "after":  # it was stored, leased to this process, which never heard of it
            assert await app.ctx.workflow.handle("seven").result(timeout=10) == 14
        await until(lambda: is_idle(outside))
    assert Counter(await notes(outside))["7"] == (moment == "after")


async def test_a_cancellation_between_start_and_first_step_is_heard(start: Start, outside: asyncpg.Connection) -> None:
    app = doubling()

    async def cancel(sql: str) -> None:
        if lexer.label(sql) == "run_births.start":
            await outside.execute("select chimpbase.cancel_run('doomed', 'not wanted', false)")

    async with start(app) as runtime:
        await _at_rest(app)
        listen_to_engine(runtime, Ear(after=cancel))
        run = await app.ctx.workflow.start("wait", 7, id="doomed")
        with pytest.raises(WorkflowFailed, match="not wanted"):
            await run.result(timeout=10)


async def test_many_who_wait_for_runs_of_elsewhere_ask_together(start: Start, outside: asyncpg.Connection) -> None:
    app = doubling()
    async with start(app, workers=False) as runtime:
        ear = listen_to_engine(runtime, Ear())
        runs = await asyncio.gather(*(app.ctx.workflow.start("double", n) for n in range(50)))
        results = asyncio.gather(*(run.result(timeout=10) for run in runs))
        await until(lambda: "run_queries.list_ends" in sent(ear))
        await outside.execute("update chimpbase.run set state = 'completed', output = input, finished_at = now()")
        assert await results == list(range(50))
        looks = Counter(sent(ear))["run_queries.list_ends"]
        assert looks < 50


async def _at_rest(app: App) -> None:
    """Until a first run of each workflow has been, and the lanes have found that nothing more waits."""
    assert await (await app.ctx.workflow.start("double", 1)).result(timeout=10) == 2
    waiting = await app.ctx.workflow.start("wait", 1)
    await waiting.signal(go, 1)
    assert await waiting.result(timeout=10) == 2
    await until(lambda: all(not lane().hot and lane().free for lane in _lanes(app)))


def _lanes(app: App) -> list[Callable[[], Any]]:
    claimer: Any = app._runtime._backstage.engine._claimer  # type: ignore[union-attr]
    return [lambda queue=queue: claimer.lane(queue) for queue in claimer.queues]
