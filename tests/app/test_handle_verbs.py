"""What can be done to a job by its handle, and batches from plain functions."""

from __future__ import annotations

import asyncpg
import pytest

from chimpbase import App, Ctx, JobHandle, Queue, Retry, SyncCtx
from chimpbase.errors import NotFound
from tests.running import Start, history, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio
boxes = Queue("boxes", int)


def app_with(broken: list[int]) -> App:
    app = App("verbs")

    @app.worker(boxes, retry=Retry(max_attempts=1))
    async def pack(ctx: Ctx, number: int) -> int:
        if number in broken:
            raise OSError("no such box")
        return number

    @app.worker("done")
    async def done(ctx: Ctx, name: str) -> None:
        batch = ctx.job.batch
        assert batch is not None
        await ctx.db.execute("insert into ledger values ('done', $1)", f"{name} {batch.completed} of {batch.total}")

    @app.worker("threads")
    def thread(ctx: SyncCtx, name: str) -> str:
        with ctx.queue.batch(on_done=("done", name)) as batch:
            first = batch.enqueue(boxes, 1)
            batch.enqueue_many(boxes, [2, 3])
            assert batch.done not in (first, 0)
        other = ctx.queue.enqueue(boxes, 4, delay=600)
        assert other.explain().state == "delayed"
        assert other.retry() == "hurried"
        assert other.cancel(reason="not needed") == "cancelled"
        with pytest.raises(OSError, match="no"), ctx.queue.batch(on_done=("done", "never")) as batch:
            raise OSError("no")
        return name

    return app


async def test_a_handle_acts_in_the_transaction_that_made_it_while_that_is_open(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = app_with([])
    async with start(app, workers=False):
        made: list[JobHandle[int]] = []
        with pytest.raises(OSError, match="rolled back"):
            async with app.transaction() as ctx:
                handle = await ctx.queue.enqueue(boxes, 1, delay=600)
                made.append(handle)
                assert (await handle.explain()).state == "delayed"
                assert await handle.retry() == "hurried"
                assert await handle.cancel(reason="no") == "cancelled"
                raise OSError("rolled back")
        assert await history(outside, "job_done") == []
        with pytest.raises(NotFound):
            await made[0].cancel()


async def test_a_handle_acts_for_itself_after_that(start: Start, outside: asyncpg.Connection) -> None:
    broken = [2]
    app = app_with(broken)
    async with start(app):
        async with app.transaction() as ctx:
            waits, dies = await ctx.queue.enqueue_many(boxes, [1, 2], delay=600)
        assert await waits.cancel(reason="not needed") == "cancelled"
        assert await waits.cancel() == "ended"
        assert (await waits.explain()).state == "cancelled"
        assert await dies.retry() == "hurried"
        await until(lambda: history(outside, "job_dead"))
        assert (await dies.explain()).state == "dead"
        broken.clear()
        assert await dies.retry() == "redriven"
        assert await dies.result(timeout=10) == 2
        with pytest.raises(NotFound):
            await dies.retry()
        alone = await app.ctx.queue.enqueue(boxes, 3, delay=600)
        assert await alone.cancel() == "cancelled"


async def test_a_plain_function_has_batches_and_the_verbs_of_handles(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with([])
    async with start(app):
        handle = await app.ctx.queue.enqueue("threads", "three")
        assert await handle.result(timeout=10) == "three"
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["three 3 of 3"]
    cancelled = [row for row in await history(outside, "job_done") if row["outcome"] == "cancelled"]
    assert [row["payload"] for row in cancelled] == ["4"]
