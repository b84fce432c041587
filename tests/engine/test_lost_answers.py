"""Connections that die under the engine's own statements: before one is sent, or after the server has committed it.

Whatever the statement, nothing may be lost, doubled or left where nobody looks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, DeadLetter, Queue, Retry, Runtime, Snooze, Wf, step
from chimpbase._pg import lexer
from tests.running import Ear, Start, history, is_idle, listen_to_engine, listen_to_handlers, notes, the_row, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", str)


def everything() -> App:
    """One job for each way to end, and a workflow with each verb."""
    app = App("everything")
    seen: set[str] = set()

    @app.worker(jobs, retry=Retry(first=timedelta(milliseconds=10)))
    async def work(ctx: Ctx, what: str) -> Snooze | DeadLetter | None:
        first = what not in seen
        seen.add(what)
        match what:
            case "fail once" if first:
                raise ValueError
            case "snooze once" if first:
                return Snooze(timedelta(milliseconds=10))
            case "bury":
                return DeadLetter("wanted")
            case "batch":
                return None
            case _:
                await ctx.db.execute("insert into ledger values ('job', $1)", what)
                return None

    @step
    async def written(ctx: Ctx, n: int) -> int:
        await ctx.db.execute("insert into ledger values ('step', $1)", f"step {n}")
        return n

    async def plain(n: int) -> int:
        return n

    @app.workflow("journey")
    async def journey(wf: Wf, start: int) -> int:
        total = await written(wf, start)
        total += await wf.step("plain", plain, 10)
        await wf.sleep(0.01)
        return total + (await wf.wait("go") or 0)

    return app


#: Which statement is lost, on whose connections.
STATEMENTS = [
    *("jobs.claim", "jobs.finish_alike", "jobs.settle", "jobs.put_off", "jobs.dead_letter", "jobs.promote"),
    *("runs.load_journals", "runs.memo", "runs.consume", "runs.suspend", "runs.finish"),
]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("statement", STATEMENTS)
async def test_a_lost_answer_changes_nothing(
    start: Start, outside: asyncpg.Connection, statement: str, moment: str
) -> None:
    app = everything()
    lost: list[str] = []

    def lose(sql: str) -> None:
        if not lost and lexer.label(sql) == statement:
            lost.append(sql)
            raise ConnectionResetError

    def ear() -> Ear:
        return Ear(before=lose) if moment == "before" else Ear(after=lose)

    async with start(app) as runtime:
        await arrange(runtime, outside, ear)
        await until(lambda: is_idle(outside))
        await until(lambda: ended(outside))
    assert lost
    assert sorted(await notes(outside)) == sorted(["fail once", "snooze once", "write", "delayed", "step 1"])
    assert [row["payload"] for row in await history(outside, "job_dead")] == ['"bury"']
    run = await the_row(outside, "select state, output, error from chimpbase.run")
    assert tuple(run) == ("completed", "111", None)


async def arrange(runtime: Runtime, outside: asyncpg.Connection, ear: Callable[[], Ear]) -> None:
    listen_to_engine(runtime, ear())
    listen_to_handlers(runtime, ear())
    for payload in ("write", "fail once", "snooze once", "bury", "batch"):
        await outside.execute("select chimpbase.enqueue('jobs', to_jsonb($1::text))", payload)
    await outside.execute("""select chimpbase.enqueue('jobs', '"delayed"', '{"delay": 0.05}')""")
    await outside.execute("select chimpbase.start_workflow('journey', '1', '{\"id\": \"a\"}')")
    await outside.execute("select chimpbase.signal('a', 'go', '100')")


async def ended(outside: asyncpg.Connection) -> bool:
    return await the_value(outside, "select count(*) = 0 from chimpbase.run where finished_at is null")
