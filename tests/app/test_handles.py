"""Handles: the id of a job, its result, its progress."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Cancel, Ctx, JobHandle, Queue, Retry, Snooze, SyncCtx
from chimpbase.errors import AttemptTimeout, JobCancelled, JobFailed, NotFound, UsageError
from tests.running import Start, history, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio


@dataclass
class Receipt:
    number: int
    at: datetime


AT = datetime(2027, 1, 2, tzinfo=UTC)
app = App("handles")
boxes = Queue("boxes", int)


@app.worker(boxes, retry=Retry(max_attempts=1))
async def pack(ctx: Ctx, number: int) -> Receipt | Snooze | Cancel | None:
    if number < 0:
        raise OSError("no such box")
    if number == 0:
        return Cancel("empty")
    if number == 404:
        return None
    await ctx.db.fetch("select 1")
    return Receipt(number, AT)


@app.worker("plain")
def plain(ctx: SyncCtx, number: int) -> list[int]:
    return [number, number]


@app.worker("big")
async def big(ctx: Ctx, size: int) -> str:
    return "x" * size


@app.worker("wrong", retry=Retry(max_attempts=1))
async def wrong(ctx: Ctx, number: int) -> int:
    return "no number"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@app.worker("quiet")
async def quiet(ctx: Ctx, number: int) -> None:
    return number  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


async def test_a_result_is_awaited_as_what_it_was(start: Start) -> None:
    async with start(app, poll=60.0):
        handle = await app.ctx.queue.enqueue(pack, 7)
        assert await handle.result(timeout=10) == Receipt(7, AT)
        assert await handle.result() == Receipt(7, AT), "it can be asked for again"
        by_token = await app.ctx.queue.enqueue(boxes, 8)
        assert await by_token.result(timeout=10) == Receipt(8, AT)
        assert await app.ctx.queue.handle(int(by_token)).result() == Receipt(8, AT)
        handles = await app.ctx.queue.enqueue_many(pack, [1, 404])
        assert [await one.result(timeout=10) for one in handles] == [Receipt(1, AT), None]
        assert await (await app.ctx.queue.enqueue("plain", 3)).result(timeout=10) == [3, 3]


async def test_a_process_without_the_worker_reads_a_result_too(start: Start) -> None:
    other = App("other", register=[Queue("boxes", int)])
    async with start(app, workers=True), start(other, workers=False):
        handle = await other.ctx.queue.enqueue("boxes", 7)
        assert await handle.result(timeout=10) == {"number": 7, "at": "2027-01-02T00:00:00Z"}


async def test_how_a_job_failed_is_an_error_of_its_own(start: Start) -> None:
    async with start(app):
        with pytest.raises(JobFailed, match="no such box") as failed:
            await (await app.ctx.queue.enqueue(pack, -1)).result(timeout=10)
        assert failed.value.reason == "exhausted"
        with pytest.raises(JobCancelled, match="empty"):
            await (await app.ctx.queue.enqueue(pack, 0)).result(timeout=10)


async def test_a_result_that_cannot_be_stored_fails_its_job(start: Start, outside: asyncpg.Connection) -> None:
    async with start(app):
        assert len(await (await app.ctx.queue.enqueue(big, 1_000_000)).result(timeout=10)) == 1_000_000
        with pytest.raises(JobFailed, match="result of"):
            await (await app.ctx.queue.enqueue(big, 2_000_000)).result(timeout=10)
        with pytest.raises(JobFailed, match="result of"):
            await (await app.ctx.queue.enqueue(wrong, 1)).result(timeout=10)
        assert await (await app.ctx.queue.enqueue(quiet, 1)).result(timeout=10) is None
    kept = [row["result"] for row in await history(outside, "job_done") if row["name"] == "quiet"]
    assert kept == [None]


async def test_who_waits_too_long_is_told_and_the_job_goes_on(start: Start) -> None:
    async with start(app):
        handle = await app.ctx.queue.enqueue(pack, 1, delay=0.5)
        with pytest.raises(AttemptTimeout):
            await handle.result(timeout=0.05)
        assert await handle.result(timeout=10) == Receipt(1, AT)


async def test_what_is_not_committed_cannot_be_awaited(start: Start) -> None:
    async with start(app):
        async with app.transaction() as ctx:
            handle = await ctx.queue.enqueue(pack, 1)
            with pytest.raises(UsageError, match="has committed"):
                await handle.result()
            assert (await handle.status()).state == "waiting"
        assert await handle.result(timeout=10) == Receipt(1, AT)


async def test_what_was_rolled_back_is_not_found(start: Start) -> None:
    handle: JobHandle[Any] | None = None
    async with start(app):
        with pytest.raises(OSError, match="no"):
            async with app.transaction() as ctx:
                handle = await ctx.queue.enqueue(pack, 1)
                raise OSError("no")
        assert handle is not None
        with pytest.raises(NotFound):
            await handle.result(timeout=10)
        with pytest.raises(NotFound):
            await handle.status()


async def test_a_handle_is_its_id_wherever_it_goes(start: Start, outside: asyncpg.Connection) -> None:
    async with start(app, workers=False):
        handle = await app.ctx.queue.enqueue(pack, 1)
        id = await the_value(outside, "select id from chimpbase.job")
        assert handle == id == handle.id
        assert (str(handle), f"{handle}", repr(handle), json.dumps([handle])) == (*[str(id)] * 3, f"[{id}]")
        assert {int(id): 1}[handle] == 1
        for twin in (pickle.loads(pickle.dumps(handle)), copy.deepcopy(handle)):
            assert (type(twin), twin) == (int, id)
        assert await outside.fetchval("select $1::bigint", handle) == id
        await app.ctx.queue.enqueue("plain", handle)
        await app.ctx.kv.set("last", {"job": handle})
        assert await app.ctx.kv.get("last") == {"job": id}


@pytest.mark.parametrize("id", [0, -1, 2**63, True, "7", 7.0, None])
async def test_what_cannot_be_an_id_is_refused(start: Start, id: Any) -> None:
    async with start(app, workers=False):
        with pytest.raises(UsageError):
            await app.ctx.queue.get(id)


async def test_a_status_tells_where_a_job_is(start: Start, outside: asyncpg.Connection) -> None:
    async with start(app, workers=False):
        queue = app.ctx.queue
        later = await queue.get(await queue.enqueue(pack, 1, delay=60, priority=3, key="k"))
        assert (later.state, later.queue, later.payload, later.priority, later.key) == ("waiting", "boxes", 1, 3, "k")
        assert later.due_at is not None
        assert not later.ended
        with pytest.raises(NotFound):
            await queue.get(10**9)
        first = await queue.enqueue(pack, 5)
        dead = await queue.enqueue(pack, -5)
    async with start(app):
        await until(lambda: ended(first))
        status = await app.ctx.queue.get(first)
        assert (status.state, status.attempts, status.due_at) == ("completed", 1, None)
        assert status.result == {"number": 5, "at": "2027-01-02T00:00:00Z"}
        assert status.finished_at is not None
        await until(lambda: ended(dead))
        status = await app.ctx.queue.get(dead)
    assert (status.state, status.reason) == ("dead", "exhausted")
    assert [(one.attempt, one.error, "no such box" in one.message) for one in status.errors] == [(1, "OSError", True)]


async def ended(id: int) -> bool:
    return (await app.ctx.queue.get(id)).ended


async def test_progress_is_seen_while_the_transaction_is_open(start: Start) -> None:
    go, working = asyncio.Event(), App("progress")

    @working.worker("work")
    async def work(ctx: Ctx, number: int) -> None:
        await ctx.db.fetch("select 1")
        for step in range(50):
            await ctx.job.progress(step / 100, f"step {step}")
        await asyncio.gather(*(ctx.job.progress(0.5) for _ in range(20)), ctx.job.progress(0.75, "half\0"))
        for bad in (-1, 2, True, "0.5", float("nan")):
            with pytest.raises(UsageError):
                await ctx.job.progress(bad)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(UsageError):
            await ctx.job.progress(0.5, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await go.wait()

    @working.worker("threaded")
    def threaded(ctx: SyncCtx, number: int) -> str:
        ctx.job.progress(0.25, "quarter")
        handle = ctx.queue.get(ctx.job.id)
        assert handle.progress is not None
        return str(handle.progress.fraction)

    async with start(working):
        handle = await working.ctx.queue.enqueue("work", 1)

        async def reached() -> bool:
            seen = (await handle.status()).progress
            return seen is not None and seen.fraction == 0.75

        await until(reached)
        status = await handle.status()
        assert status.state == "running"
        assert status.progress is not None
        assert status.progress.note == "half�"
        go.set()
        await handle.result(timeout=10)
        assert await (await working.ctx.queue.enqueue("threaded", 1)).result(timeout=10) == "0.25"


async def test_plain_functions_and_bound_connections_follow_jobs(start: Start, dsn: str) -> None:
    sync = App("sync", register=[pack])

    @sync.action
    def order(ctx: SyncCtx) -> str:
        handle = ctx.queue.enqueue(pack, 3)
        with pytest.raises(UsageError):
            handle.result()
        many = ctx.queue.enqueue_many(pack, [4, 5])
        return " ".join([handle.status().state, *(ctx.queue.get(one).state for one in many)])

    async with start(sync, workers=False):
        assert await sync.call(order) == "waiting waiting waiting"
        connection = await asyncpg.connect(dsn)
        async with connection.transaction():
            bound = sync.bind(connection)
            handle = await bound.queue.enqueue(pack, 9)
            assert (await handle.status()).payload == 9
            with pytest.raises(UsageError):
                await handle.result()
        await connection.close()


async def test_results_are_gone_with_the_history(start: Start, outside: asyncpg.Connection) -> None:
    async with start(app):
        await outside.execute("update chimpbase.queue set retention = null where name = 'boxes'")
        handle = await app.ctx.queue.enqueue(pack, 1)
        with pytest.raises(NotFound):
            await handle.result(timeout=timedelta(seconds=10))


async def test_old_progress_of_what_has_ended_is_swept(start: Start, outside: asyncpg.Connection) -> None:
    async with start(app, workers=False):
        waits = await app.ctx.queue.enqueue(pack, 1, delay=60)
        await outside.execute(
            "insert into chimpbase.job_progress select job, 1, 0.5, null, now() - age * interval '1 h'"
            " from (values ($1::bigint, 2), (777, 2), (778, 0)) as row (job, age)",
            waits,
        )
    async with start(app):
        pass
    rows = await outside.fetch("select job from chimpbase.job_progress order by job")
    assert [row["job"] for row in rows] == sorted([int(waits), 778])
