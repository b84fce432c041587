"""Jobs that come after others, and batches."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from chimpbase import App, Ctx, Retry
from chimpbase.errors import NotFound, UsageError
from tests.running import Start, history, is_idle
from tests.waiting import until

pytestmark = pytest.mark.anyio


def app_with(ran: list[str]) -> App:
    app = App("after")

    @app.worker("work", retry=Retry(max_attempts=1))
    async def work(ctx: Ctx, name: str) -> None:
        ran.append(name)
        if name.startswith("touch"):
            await ctx.db.fetch("select 1")
        if name.startswith("bad"):
            raise OSError(name)

    @app.worker("done")
    async def done(ctx: Ctx, name: str) -> None:
        batch = ctx.job.batch
        assert batch is not None
        ran.append(f"{name} {batch.total} {batch.completed} {batch.dead} {batch.cancelled}")

    return app


async def test_a_job_runs_after_those_that_it_needs(start: Start, outside: asyncpg.Connection) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        async with app.transaction() as ctx:
            first = await ctx.queue.enqueue("work", "first", delay=0.3)
            second = await ctx.queue.enqueue("work", "touch second", delay=0.2)
            third = await ctx.queue.enqueue("work", "third", after=[first, second])
            await ctx.queue.enqueue("work", "last", after=[int(third)])
        await until(lambda: len(ran) == 4)
        await until(lambda: is_idle(outside))
        ended = await app.ctx.queue.enqueue("work", "ended", after=[first, third])
        await ended.result(timeout=10)
    assert ran == ["touch second", "first", "third", "last", "ended"]
    assert await outside.fetchval("select count(*) from chimpbase.job_after") == 0


async def test_many_that_end_at_once_let_go_of_what_needs_them(start: Start) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        async with app.transaction() as ctx:
            needs = await ctx.queue.enqueue_many("work", [f"touch {n}" for n in range(200)])
            await ctx.queue.enqueue("work", "last", after=needs)
        await until(lambda: "last" in ran)
    assert ran.index("last") == 200


@pytest.mark.parametrize(("failed", "becomes"), [("wait", "waiting"), ("run", "completed"), ("cancel", "cancelled")])
@pytest.mark.parametrize("early", [True, False])
async def test_a_dead_need_does_to_its_dependents_what_they_said(
    start: Start, outside: asyncpg.Connection, failed: str, becomes: str, early: bool
) -> None:
    app = app_with([])
    async with start(app):
        bad = await app.ctx.queue.enqueue("work", "bad", delay=0.3 if early else None)
        if not early:
            await until(lambda: history(outside, "job_dead"))
        dependent = await app.ctx.queue.enqueue("work", "x", after=[bad], after_failed=failed)  # type: ignore[arg-type]  # pyright: ignore
        further = await app.ctx.queue.enqueue("work", "y", after=[dependent], after_failed="cancel")
        await until(lambda: history(outside, "job_dead"))

        async def settled() -> bool:
            states = [(await one.status()).state for one in (dependent, further)]
            return states == [becomes, becomes]

        await until(settled)


async def test_a_redriven_need_lets_go(start: Start, outside: asyncpg.Connection) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        bad = await app.ctx.queue.enqueue("work", "bad")
        await app.ctx.queue.enqueue("work", "after it", after=[bad])
        await until(lambda: history(outside, "job_dead"))
        await outside.execute("delete from chimpbase.job_dead")  # as good as an end
        await until(lambda: ran == ["bad", "after it"])


async def test_an_end_that_nobody_saw_is_made_up_for(start: Start, outside: asyncpg.Connection) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        need = await app.ctx.queue.enqueue("work", "never", delay=600)
        await app.ctx.queue.enqueue("work", "after it", after=[need])
        await outside.execute("delete from chimpbase.job_later where id = $1", need)
        await until(lambda: ran == ["after it"])


async def test_a_need_cannot_end_before_the_dependency_is_committed(start: Start) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        need = await app.ctx.queue.enqueue("work", "need", delay=0.2)
        async with app.transaction() as ctx:
            await ctx.queue.enqueue("work", "after it", after=[need])
            await asyncio.shield((await app.ctx.queue.enqueue("work", "other", delay=0.3)).result(timeout=10))
            assert "after it" not in ran
        await until(lambda: ran[-1] == "after it")
    assert ran == ["other", "need", "after it"]


async def test_jobs_that_never_were_are_refused(start: Start, outside: asyncpg.Connection) -> None:
    app = app_with([])
    async with start(app, workers=False):
        with pytest.raises(NotFound):
            await app.ctx.queue.enqueue("work", "x", after=[10**12])
        for wrong in ([0], [True], ["1"], "1", [2**63], [1.0]):
            with pytest.raises(UsageError):
                await app.ctx.queue.enqueue("work", "x", after=wrong)  # type: ignore[arg-type]  # pyright: ignore
        with pytest.raises(UsageError):
            await app.ctx.queue.enqueue("work", "x", after=[1], unique="u")
        with pytest.raises(UsageError):
            await app.ctx.queue.enqueue("work", "x", after_failed="run")
        for sql in (
            {"after": 1},
            {"after": ["x"]},
            {"after": [0]},
            {"after": [1], "after_failed": "x"},
            {"after": [1.5]},
        ):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await outside.fetchval("select chimpbase.enqueue('work', '1', $1)", json.dumps(sql))
            assert getattr(refused.value, "sqlstate", None) == "CB002"
        assert await outside.fetchval("select count(*) from chimpbase.job") == 0


async def test_plain_sql_has_dependencies(start: Start, outside: asyncpg.Connection) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        need = await app.ctx.queue.enqueue("work", "need", delay=0.3)
        await outside.fetchval("select chimpbase.enqueue('work', '\"dep\"', $1)", json.dumps({"after": [int(need)]}))
        await until(lambda: ran == ["need", "dep"])


async def test_a_batch_is_followed_by_one_job_that_knows_how_it_went(start: Start) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        async with app.transaction() as ctx, ctx.queue.batch(on_done=("done", "in one")) as batch:
            await batch.enqueue_many("work", [f"touch {n}" for n in range(20)])
            await batch.enqueue("work", "bad")
        await until(lambda: "in one 21 20 1 0" in ran)
        async with app.ctx.queue.batch(on_done=("done", "one by one")) as batch:
            first = await batch.enqueue("work", "a")
            await first.result(timeout=10)
            assert not [one for one in ran if one.startswith("one by one")]
            await batch.enqueue("work", "b", after=[first])
        await until(lambda: "one by one 2 2 0 0" in ran)
        with pytest.raises(UsageError, match="closed"):
            await batch.enqueue("work", "late")
        async with app.ctx.queue.batch(on_done=("done", "empty")):
            pass
        await until(lambda: "empty 0 0 0 0" in ran)


async def test_a_batch_that_fails_has_no_end(start: Start, outside: asyncpg.Connection) -> None:
    ran: list[str] = []
    app = app_with(ran)
    async with start(app):
        with pytest.raises(OSError, match="no"):
            async with app.ctx.queue.batch(on_done=("done", "never")) as batch:
                await batch.enqueue("work", "a")
                raise OSError("no")
        with pytest.raises(UsageError, match="unique"):
            async with app.ctx.queue.batch(on_done=("done", "never")) as batch:
                await batch.enqueue("work", "a", unique="u")
        await until(lambda: is_idle(outside))
    assert ran == ["a"]
    assert await outside.fetchval("select count(*) from chimpbase.job_after") == 0


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("delay", [0, 3600])
async def test_cancelling_a_job_that_waits_tells_those_that_need_it_in_the_same_transaction(
    start: Start, outside: asyncpg.Connection, kept: bool, delay: float
) -> None:
    app = App("after")

    @app.worker("plain", retention=3600 if kept else None)
    async def plain(ctx: Ctx, name: str) -> None: ...

    # nobody works, so no sweep helps
    async with start(app, workers=False):
        async with app.transaction() as ctx:
            need = await ctx.queue.enqueue("plain", "need", delay=delay)
            other = await ctx.queue.enqueue("plain", "other", delay=3600)
            freed = await ctx.queue.enqueue("plain", "freed", after=[need])
            refused = await ctx.queue.enqueue("plain", "refused", after=[need, other], after_failed="cancel")
            further = await ctx.queue.enqueue("plain", "further", after=[refused], after_failed="cancel")
            async with ctx.queue.batch(on_done=("plain", "counted")) as batch:
                member = await batch.enqueue("plain", "member", delay=delay)
        with pytest.raises(OSError, match="rolled back"):
            async with app.transaction() as ctx:
                await ctx.queue.cancel(need)
                raise OSError("rolled back")
        assert await outside.fetchval("select count(*) from chimpbase.job_after where needs = $1", int(need)) == 2
        async with app.transaction() as ctx:
            assert await ctx.queue.cancel(need) == "cancelled"
            assert await ctx.queue.cancel(member) == "cancelled"
        assert await outside.fetchval("select count(*) from chimpbase.job_after") == 0
        due = "select due_at <> 'infinity' from chimpbase.job_later where id = $1"
        assert await outside.fetchval(due, int(freed))
        gone = "select count(*) from chimpbase.job_later where id = any($1)"
        assert await outside.fetchval(gone, [int(refused), int(further)]) == 0
        count = "select terms::jsonb #>> '{batch,cancelled}' from chimpbase.job_later where payload = '\"counted\"'"
        assert await outside.fetchval(count) == "1"


async def test_a_job_that_is_cancelled_needs_nobody_any_more(start: Start, outside: asyncpg.Connection) -> None:
    async with start(app_with([]), workers=False) as runtime:
        need = await runtime.ctx.queue.enqueue("work", "need")
        dependent = await runtime.ctx.queue.enqueue("work", "dependent", after=[need])
        assert await runtime.ctx.queue.cancel(dependent) == "cancelled"
        assert await outside.fetchval("select count(*) from chimpbase.job_after") == 0
