"""Ends that the database refuses: one bad end waits alone, its batch mates are settled, and it is tried again."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue, Retry
from tests.running import Start, errors_of, history, is_idle, the_row
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)


async def test_a_bad_end_waits_alone_and_is_settled_once_the_database_takes_it(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("ends")
    ran: list[int] = []

    @app.worker(jobs, concurrency=50, retry=Retry(max_attempts=1))
    async def work(ctx: Ctx, n: int) -> None:
        ran.append(n)
        raise ValueError(f"job {n}")

    async with start(app, lease=timedelta(seconds=10)):
        await outside.execute("""
            alter table chimpbase.job_dead add constraint picky check (payload <> '13')
        """)
        await outside.execute("select chimpbase.enqueue('jobs', to_jsonb(n)) from generate_series(1, 40) n")
        await until(lambda: only_the_bad_one_is_left(outside))
        # it stays leased: nobody else runs it meanwhile
        held = await the_row(outside, "select process is not null, payload from chimpbase.job")
        assert tuple(held) == (True, "13")
        await outside.execute("select chimpbase.enqueue('jobs', '99')")
        await until(lambda: only_the_bad_one_is_left(outside, 40))
        await outside.execute("alter table chimpbase.job_dead drop constraint picky")
        await until(lambda: is_idle(outside))
        dead = await history(outside, "job_dead")
        assert sorted(int(row["payload"]) for row in dead) == [*range(1, 41), 99]
        assert {row["payload"]: [kind for _, kind, _ in errors_of(row)] for row in dead}["13"] == ["ValueError"]
        assert sorted(ran) == [*range(1, 41), 99]
    assert "cannot be settled, it stays leased: CheckViolation 23514" in caplog.text
    assert "Failing row" not in caplog.text


async def only_the_bad_one_is_left(outside: asyncpg.Connection, dead: int = 39) -> bool:
    row = await the_row(
        outside, "select (select count(*) from chimpbase.job) = 1, (select count(*) from chimpbase.job_dead)"
    )
    return tuple(row) == (True, dead)
