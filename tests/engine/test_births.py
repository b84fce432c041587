"""Jobs that are stored by the process that runs them: no claim when a slot is free, and nothing lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue, Retry
from chimpbase._pg import lexer
from chimpbase.errors import DatabaseError
from tests.running import Ear, Start, history, is_idle, listen_to_engine, listen_to_handlers, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)


def sent(ear: Ear) -> list[str | None]:
    return [lexer.label(sql) for sql in ear.heard]


def counting(*, concurrency: int = 4, gate: asyncio.Event | None = None) -> tuple[App, list[int]]:
    app, seen = App("births"), list[int]()

    @app.worker(jobs, concurrency=concurrency, retry=Retry(first=timedelta(milliseconds=10)))
    async def work(ctx: Ctx, n: int) -> None:
        if gate is not None:
            await gate.wait()
        await ctx.db.execute("insert into ledger values ('job', $1)", f"{n} attempt {ctx.job.attempt}")
        seen.append(n)

    return app, seen


async def test_a_job_for_a_free_slot_needs_no_claim(start: Start, outside: asyncpg.Connection) -> None:
    app, seen = counting()
    async with start(app) as runtime:
        handlers, engine = listen_to_handlers(runtime, Ear()), listen_to_engine(runtime, Ear())
        await _at_rest(app, seen)
        engine.heard.clear()
        await app.ctx.queue.enqueue(jobs, 7)
        await until(lambda: 7 in seen)
        assert "births.enqueue" in sent(handlers)
        assert "jobs.claim" not in sent(engine)
        await until(lambda: is_idle(outside))
    assert "7 attempt 1" in await notes(outside)
    assert {row["attempt"] for row in await history(outside, "job_done")} == {1}


async def test_more_jobs_than_slots_are_claimed_as_ever(start: Start, outside: asyncpg.Connection) -> None:
    gate = asyncio.Event()
    app, seen = counting(concurrency=2, gate=gate)
    async with start(app):
        handles = await asyncio.gather(*(app.ctx.queue.enqueue(jobs, n) for n in range(9)))
        gate.set()
        await until(lambda: is_idle(outside))
        assert sorted(seen) == list(range(9))
        assert len({int(handle) for handle in handles}) == 9


async def test_a_paused_queue_keeps_its_jobs_waiting(start: Start, outside: asyncpg.Connection) -> None:
    app, seen = counting()
    async with start(app):
        await _at_rest(app, seen)
        await outside.execute("update chimpbase.queue set paused_at = now() where name = 'jobs'")
        await app.ctx.queue.enqueue(jobs, 7)
        assert await outside.fetchval("select process is null and attempt = 0 from chimpbase.job")
        await outside.execute("update chimpbase.queue set paused_at = null")
        await until(lambda: 7 in seen)
    assert "7 attempt 1" in await notes(outside)


async def test_a_process_declared_dead_meanwhile_leaves_the_job_to_others(
    start: Start, outside: asyncpg.Connection
) -> None:
    app, seen = counting()
    async with start(app):
        await _at_rest(app, seen)
        await outside.execute("update chimpbase.process set dead_at = now()")
        await app.ctx.queue.enqueue(jobs, 7)
        await until(lambda: 7 in seen)  # under a new id
        await until(lambda: is_idle(outside))
    assert [note for note in await notes(outside) if note.startswith("7 ")] == ["7 attempt 1"]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_answer_loses_no_job_and_no_slot(start: Start, outside: asyncpg.Connection, moment: str) -> None:
    app, seen = counting(concurrency=1)
    lost: list[str] = []

    def lose(sql: str) -> None:
        if not lost and lexer.label(sql) == "births.enqueue":
            lost.append(sql)
            raise ConnectionResetError

    async with start(app, lease=timedelta(seconds=1)) as runtime:
        await _at_rest(app, seen)
        listen_to_handlers(runtime, Ear(before=lose) if moment == "before" else Ear(after=lose))
        with pytest.raises(DatabaseError):
            await app.ctx.queue.enqueue(jobs, 7)
        await app.ctx.queue.enqueue(jobs, 8)
        await until(lambda: 8 in seen)
        if moment == "after":  # it was stored, leased to this process, which never heard of it
            await until(lambda: 7 in seen)
        await until(lambda: is_idle(outside))
    assert seen.count(7) == (moment == "after")
    assert {row["process"] for row in await outside.fetch("select process from chimpbase.job")} == set()


async def _at_rest(app: App, seen: list[int]) -> None:
    """Until a first job has run and the lane has found that nothing more waits."""
    await app.ctx.queue.enqueue(jobs, 0)
    await until(lambda: 0 in seen)
    lane = _lane(app)
    await until(lambda: not lane().hot and lane().free)


def _lane(app: App) -> Callable[[], Any]:
    claimer: Any = app._runtime._backstage.engine._claimer  # type: ignore[union-attr]
    (queue,) = claimer.queues
    return lambda: claimer.lane(queue)
