"""Explain: one sentence that says why a job is not running, whatever the reason."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Explanation, Limits, Queue, Rate, Retry, Signal, SyncCtx, Wf, errors, worker, workflow
from chimpbase._engine.horizon import Horizon
from chimpbase._pg.db import Db
from tests.running import Start, is_idle, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

mail = Queue("mail", int)
go = Signal("go", int)


@worker(mail, retry=Retry(max_attempts=2, first=timedelta(hours=1)))
async def send(ctx: Ctx, number: int) -> None:
    if number < 0:
        raise ValueError("no such letter\nat all")


async def test_a_job_nobody_knows_and_wrong_ids(start: Start) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        unknown = await runtime.ctx.queue.explain(77)
        assert (unknown.state, unknown.queue) == ("unknown", None)
        assert "has not committed" in str(unknown)
        wrong_ids: list[Any] = [0, True, "1", None]
        for wrong in wrong_ids:
            with pytest.raises(errors.UsageError):
                await runtime.ctx.queue.explain(wrong)


async def test_a_ready_job_that_nobody_works_then_one_that_is_paused(start: Start) -> None:
    async with start(App("a", register=[mail]), workers=False) as runtime:
        queue = runtime.ctx.queue
        first, second = await queue.enqueue(mail, 1), await queue.enqueue(mail, 2)
        why = await queue.explain(second)
        assert why.state == "ready"
        assert why.summary == f"Job {second} of queue 'mail' is ready, but no live process works its queue."
        assert why.facts["ahead"] == 1
        await queue.pause(mail, reason="the provider is down", by="anna")
        why = await queue.explain(first)
        assert why.state == "paused"
        assert "by anna: the provider is down" in why.summary


async def test_a_job_whose_row_a_transaction_holds(start: Start, outside: asyncpg.Connection) -> None:
    @worker("slow", concurrency=1)
    async def slow(ctx: Ctx, number: int) -> None: ...

    async with start(App("a", register=[slow])) as runtime:
        await runtime.ctx.queue.pause(slow)
        job = await runtime.ctx.queue.enqueue(slow, 1)
        async with outside.transaction():
            await outside.execute("set local application_name = 'a report'")
            await outside.execute("select from chimpbase.job for update")
            await runtime.ctx.queue.resume(slow)
            why = await runtime.ctx.queue.explain(job)
            assert "has locked it: pid" in why.summary
            assert "application 'a report'" in why.summary
            assert why.facts["locked_by"]["state"] == "idle in transaction"
        await until(lambda: is_idle(outside))


async def test_a_delayed_a_retrying_a_dead_and_a_done_job(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[send])) as runtime:
        queue = runtime.ctx.queue
        later = await queue.enqueue(mail, 1, delay=90)
        failing = await queue.enqueue(mail, -1)
        fine = await queue.enqueue(mail, 1)
        hopeless = await queue.enqueue(mail, -1, max_attempts=1)

        async def state(job: int) -> str:
            return (await queue.explain(job)).state

        async def settled() -> bool:
            return [await state(job) for job in (failing, fine, hopeless)] == ["retrying", "done", "dead"]

        await until(settled)
        assert "is not due until" in str(await queue.explain(later))
        assert ", in 1m2" in str(await queue.explain(later))
        retrying = str(await queue.explain(failing))
        assert "because attempt 1 failed: ValueError: no such letter" in retrying
        assert "\n" not in retrying
        assert "(exhausted), after 1 attempt: ValueError: no such letter" in str(await queue.explain(hopeless))
        assert "is done since" in str(await queue.explain(fine))
        await queue.cancel(later, reason="too late")
        why = await queue.explain(later)
        assert why.state == "cancelled"
        assert why.summary.endswith(": too late.")


async def test_a_running_job_and_one_whose_process_has_died(start: Start, outside: asyncpg.Connection) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    @worker("slow", transaction=False)
    async def slow(ctx: Ctx, number: int) -> None:
        entered.set()
        try:
            await leave.wait()
        except asyncio.CancelledError:
            await leave.wait()
            raise

    async with start(App("shop", register=[slow])) as runtime:
        job = await runtime.ctx.queue.enqueue(slow, 1)
        await asyncio.wait_for(entered.wait(), 5)
        why = await runtime.ctx.queue.explain(job)
        assert why.state == "running"
        assert "attempt 1, in process" in why.summary
        assert "(app 'shop', pid" in why.summary
        await runtime.ctx.queue.cancel(job)
        assert "it was asked to end" in str(await runtime.ctx.queue.explain(job))
        leave.set()
        await until(lambda: is_idle(outside))
    async with start(App("shop", register=[Queue("slow", int)]), workers=False) as runtime:
        job = await runtime.ctx.queue.enqueue("slow", 1)
        await outside.execute("update chimpbase.job set process = 99999, attempt = 1")
        why = await runtime.ctx.queue.explain(job)
        assert "which is dead; it is about to be taken over, but no live process works its queue" in why.summary


async def test_a_job_that_a_limit_holds_names_the_limit_and_who_holds_it(
    start: Start, outside: asyncpg.Connection
) -> None:
    leave = asyncio.Event()

    @worker("narrow", limits=Limits(concurrency=1))
    async def narrow(ctx: Ctx, number: int) -> None:
        await leave.wait()

    @worker("tenants", limits=Limits(key_concurrency=1))
    async def tenants(ctx: Ctx, number: int) -> None:
        await leave.wait()

    @worker("rated", limits=Limits(rate=Rate(1, per=timedelta(hours=1))))
    async def rated(ctx: Ctx, number: int) -> None: ...

    async with start(App("a", register=[narrow, tenants, rated])) as runtime:
        queue = runtime.ctx.queue
        first, second = await queue.enqueue(narrow, 1), await queue.enqueue(narrow, 2)
        mine, also = await queue.enqueue(tenants, 1, key="acme"), await queue.enqueue(tenants, 2, key="acme")
        await queue.enqueue(rated, 1)
        another = await queue.enqueue(rated, 2)

        async def says(job: int, words: str) -> Explanation | None:
            why = await queue.explain(job)
            return why if words in why.summary else None

        why = await until(lambda: says(second, f"the limit concurrency = 1, which jobs {first} hold"))
        assert why is not None
        assert why.state == "limited"
        assert why.facts["holders"] == {"concurrency": [first]}
        await until(lambda: says(also, f"the limit key_concurrency = 1 of key 'acme', which jobs {mine} hold"))
        await until(lambda: says(another, "waits for the rate of its queue"))
        leave.set()
        await until(lambda: says(also, "is done"))


async def test_the_activation_of_a_run_names_the_run(start: Start, outside: asyncpg.Connection) -> None:
    @workflow("checkout")
    async def checkout(wf: Wf, seconds: int) -> None:
        if seconds:
            await wf.sleep(seconds)
        await wf.wait(go)

    async with start(App("a", register=[checkout, go])) as runtime:
        await runtime.ctx.workflow.start(checkout, 3600, id="sleeps")
        await runtime.ctx.workflow.start(checkout, 0, id="waits")

        async def at_rest() -> bool:
            return await the_value(outside, "select count(*) from chimpbase.job_later") == 2

        await until(at_rest)
        jobs = {row["id"]: row["job"] for row in await outside.fetch("select id, job from chimpbase.run")}
        assert "sleeps with its workflow run 'sleeps' until" in str(await runtime.ctx.queue.explain(jobs["sleeps"]))
        assert "waits for a signal to its workflow run 'waits'" in str(await runtime.ctx.queue.explain(jobs["waits"]))


async def test_a_plain_function_may_ask_too(start: Start, outside: asyncpg.Connection) -> None:
    states = list[str]()

    @worker("asks")
    def asks(ctx: SyncCtx, number: int) -> None:
        states.append(ctx.queue.explain(ctx.job.id).state)

    async with start(App("a", register=[asks])) as runtime:
        await runtime.ctx.queue.enqueue(asks, 1)
        await until(lambda: states)
        assert states == ["running"]


async def test_who_holds_everybody_back_is_named(
    start: Start, dsn: str, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with start(App("a", register=[mail]), workers=False):
        pass
    db = await Db.open(dsn, application_name="horizon", size=1)
    watch = Horizon(db, age=timedelta(0), every_s=60, random=lambda: 0.0)
    try:
        with caplog.at_level(logging.WARNING, "chimpbase"):
            await watch.tick()
            assert "a transaction has been open" not in caplog.text
            async with outside.transaction(isolation="repeatable_read"):
                await outside.execute("set local application_name = 'a report'")
                await outside.execute("select 1")
                await watch.tick()
    finally:
        await db.close(grace=timedelta(seconds=1))
    assert "application 'a report', user" in caplog.text
    assert "idle in transaction" in caplog.text


async def test_a_job_that_waits_for_others_names_them_and_where_they_are(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[mail])) as runtime:
        queue = runtime.ctx.queue
        bad = await queue.enqueue("mail", 1, delay=3600)
        first, *rest = await queue.enqueue_many("mail", range(4), delay=3600)
        one = await queue.enqueue("mail", 1, after=[first])
        some = await queue.enqueue("mail", 1, after=[first, rest[0]])
        many = await queue.enqueue("mail", 1, after=[first, *rest, bad])
        begin = f"Job {one} of queue 'mail' waits for "
        why = await queue.explain(one)
        assert (why.state, why.summary) == ("waiting", begin + f"job {first} (waiting).")
        assert why.facts["needs"] == {str(first): "waiting"}
        assert str(await queue.explain(some)).endswith(f"waits for job {first} (waiting) and job {rest[0]} (waiting).")
        # the last one enqueued of those needed is the one that a person must do something about
        await outside.execute(
            "with gone as (delete from chimpbase.job_later where id = $1 returning *) insert into chimpbase.job_dead "
            "(id, enqueued_at, queue, attempt, reason, payload) "
            "select id, enqueued_at, queue, 1, 'exhausted', payload from gone",
            int(rest[2]),
        )
        why = await queue.explain(many)
        assert why.summary.endswith(
            f"waits for job {rest[2]} (dead letter: redrive it, or cancel this job), job {bad} (waiting), "
            f"job {first} (waiting) and 2 others."
        )
        assert (why.facts["needs_total"], len(why.facts["needs"])) == (5, 5)
        await queue.cancel(rest[1])
        assert str(await queue.explain(many)).endswith("and 1 other.")
        async with queue.batch(on_done=("mail", 1)) as batch:
            member = await batch.enqueue("mail", 1, delay=3600)
            follower = await outside.fetchval("select job from chimpbase.job_after where job = needs")
            assert str(await queue.explain(follower)).endswith(
                f"waits for job {member} (waiting) and the batch that it follows to be closed."
            )
