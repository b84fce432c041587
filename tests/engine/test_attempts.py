"""One attempt: how it can end, and what is stored of each end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Cancel, Ctx, DeadLetter, Queue, Retry, Snooze, SyncCtx
from chimpbase._pg import lexer
from tests.running import Ear, Start, errors_of, history, is_idle, listen_to_engine, listen_to_handlers, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)
SOON = Retry(max_attempts=3, first=timedelta(milliseconds=10))


async def enqueue(app: App, *payloads: int, delay: float | None = None) -> list[int]:
    async with app.transaction() as ctx:
        return [await ctx.queue.enqueue(jobs, payload, delay=delay) for payload in payloads]


async def write(ctx: Ctx, note: object) -> None:
    await ctx.db.execute("insert into ledger values ('worker', $1)", str(note))


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize(
    ("outcome", "table", "stored"),
    [
        (lambda: Cancel("not wanted"), "job_done", ("cancelled", 1)),
        (lambda: DeadLetter("no such order"), "job_dead", ("rejected", 1)),
        (lambda: None, "job_done", ("completed", 1)),
    ],
    ids=["cancel", "dead letter", "done"],
)
async def test_an_outcome_ends_the_job_and_commits_the_writes(
    start: Start,
    outside: asyncpg.Connection,
    outcome: Callable[[], Cancel | DeadLetter | None],
    table: str,
    stored: tuple[str, int],
    transaction: bool,
) -> None:
    app = App("outcomes")

    @app.worker(jobs, transaction=transaction)
    async def work(ctx: Ctx, n: int) -> Cancel | DeadLetter | None:
        await write(ctx, n)
        return outcome()

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, table)
        assert (row["reason" if table == "job_dead" else "outcome"], row["attempt"]) == stored
        reasons = {"rejected": ["no such order"], "cancelled": ["not wanted"], "completed": []}
        assert [message for _, _, message in errors_of(row)] == reasons[stored[0]]
        assert await notes(outside) == ["1"]


@pytest.mark.parametrize("touch", [True, False], ids=["in its transaction", "in a batch"])
async def test_a_snooze_runs_the_job_again_and_charges_nothing(
    start: Start, outside: asyncpg.Connection, touch: bool
) -> None:
    app = App("snooze")
    attempts: list[int] = []

    @app.worker(jobs, retry=Retry(max_attempts=1))
    async def work(ctx: Ctx, n: int) -> Snooze | None:
        attempts.append(ctx.job.attempt)
        if touch:
            await write(ctx, len(attempts))
        return Snooze(timedelta(milliseconds=50)) if len(attempts) < 4 else None

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        assert attempts == [1, 1, 1, 1]
        (row,) = await history(outside, "job_done")
        assert (row["attempt"], row["outcome"], row["errors"]) == (1, "completed", None)
        assert await notes(outside) == (["1", "2", "3", "4"] if touch else [])


async def test_a_failing_job_is_tried_again_with_its_history_and_then_buried(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "chimpbase.job")  # xdist cannot carry the message in a report
    app = App("failing")
    keys: list[str] = []

    @app.worker(jobs, retry=SOON)
    async def work(ctx: Ctx, n: int) -> None:
        keys.append(ctx.idempotency_key)
        await write(ctx, n)
        raise ValueError(f"attempt {ctx.job.attempt} \0 \ud800")

    async with start(app):
        (job,) = await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert (row["id"], row["reason"], row["attempt"]) == (job, "exhausted", 3)
        assert [(attempt, kind) for attempt, kind, _ in errors_of(row)] == [(n, "ValueError") for n in (1, 2, 3)]
        assert all(f"attempt {attempt} " in message for attempt, _, message in errors_of(row))
        assert await notes(outside) == []
        assert keys == [f"job:{job}"] * 3


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
async def test_an_error_that_cannot_be_described_is_a_failed_attempt_like_any(
    start: Start, outside: asyncpg.Connection, kind: type[BaseException]
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise kind

        __repr__ = __str__

    app = App("mute")

    @app.worker(jobs, retry=Retry(max_attempts=1))
    async def work(ctx: Ctx, n: int) -> None:
        raise Mute

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert [error for _, error, _ in errors_of(row)] == ["Mute"]


async def test_only_the_last_ten_errors_are_kept(start: Start, outside: asyncpg.Connection) -> None:
    app = App("failing")

    @app.worker(jobs, retry=Retry(max_attempts=13, first=timedelta(0)))
    async def work(ctx: Ctx, n: int) -> None:
        raise ValueError

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert [attempt for attempt, _, _ in errors_of(row)] == list(range(4, 14))


async def test_an_error_that_is_given_up_on_is_not_tried_again(start: Start, outside: asyncpg.Connection) -> None:
    app = App("failing")

    @app.worker(jobs, retry=Retry(give_up_on=(ZeroDivisionError,)))
    async def work(ctx: Ctx, n: int) -> None:
        raise ZeroDivisionError

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert (row["reason"], row["attempt"]) == ("hopeless", 1)


async def test_the_attempts_given_with_the_job_count_instead_of_the_workers(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("failing")

    @app.worker(jobs, retry=SOON)
    async def work(ctx: Ctx, n: int) -> None:
        raise ValueError

    async with start(app):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(jobs, 1, max_attempts=1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert row["attempt"] == 1


async def test_one_failing_job_does_not_delay_its_batch(start: Start, outside: asyncpg.Connection) -> None:
    app = App("batch")

    @app.worker(jobs, retry=Retry(first=timedelta(hours=1)), concurrency=4)
    async def work(ctx: Ctx, n: int) -> None:
        if n == 0:
            raise ValueError
        await write(ctx, n)

    async with start(app):
        await enqueue(app, *range(8))
        await until(lambda: has(outside, 7))
        assert sorted(await notes(outside)) == [str(n) for n in range(1, 8)]


@pytest.mark.parametrize("opens", [True, False])
async def test_an_attempt_that_takes_too_long_is_taken_back_and_charged(
    start: Start, outside: asyncpg.Connection, opens: bool
) -> None:
    app = App("slow")

    @app.worker(jobs, retry=Retry(max_attempts=2, first=timedelta(0)), timeout=0.1)
    async def work(ctx: Ctx, n: int) -> None:
        if opens:
            await write(ctx, n)
        await asyncio.Event().wait()

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert [(attempt, kind) for attempt, kind, _ in errors_of(row)] == [
            (1, "AttemptTimeout"),
            (2, "AttemptTimeout"),
        ]
        assert await notes(outside) == []


async def test_a_sync_attempt_that_takes_too_long_cannot_write_any_more(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("slow")
    gate = threading.Event()
    late: list[BaseException] = []

    @app.worker(jobs, retry=Retry(max_attempts=1), timeout=0.1)
    def work(ctx: SyncCtx, n: int) -> None:
        ctx.db.execute("insert into ledger values ('worker', 'in time')")
        gate.wait(10)
        try:
            ctx.db.execute("insert into ledger values ('worker', 'late')")
        except Exception as error:
            late.append(error)

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        gate.set()
        await until(lambda: late)
        assert "has ended" in str(late[0])
        assert await notes(outside) == []


async def test_a_handler_may_raise_timeout_error_itself(start: Start, outside: asyncpg.Connection) -> None:
    app = App("timeout")

    @app.worker(jobs, retry=Retry(max_attempts=1), timeout=60)
    async def work(ctx: Ctx, n: int) -> None:
        raise TimeoutError("somebody else's")

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert [kind for _, kind, _ in errors_of(row)] == ["TimeoutError"]


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, GeneratorExit])
async def test_a_handler_cannot_end_the_process_by_an_exception(
    start: Start, outside: asyncpg.Connection, kind: type[BaseException]
) -> None:
    app = App("poison")

    @app.worker(jobs, retry=Retry(max_attempts=2, first=timedelta(0)))
    async def work(ctx: Ctx, n: int) -> None:
        await write(ctx, n)
        if n == 0:
            raise kind

    async with start(app):
        await enqueue(app, 0, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert [error for _, error, _ in errors_of(row)] == ["AttemptError"] * 2
        assert all(f"{kind.__name__} came out of the handler" in message for _, _, message in errors_of(row))
        assert await notes(outside) == ["1"]


async def test_a_payload_that_no_longer_fits_is_buried_as_unreadable(start: Start, outside: asyncpg.Connection) -> None:
    before, after = App("deploy", register=[Queue("jobs", str)]), App("deploy")

    @after.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await write(ctx, n)

    async with start(before), before.transaction() as ctx:
        await ctx.queue.enqueue("jobs", "one")
        await ctx.queue.enqueue("jobs", "two")
    async with start(after):
        await enqueue(after, 3)
        await until(lambda: is_idle(outside))
        rows = await history(outside, "job_dead")
        assert [(row["reason"], row["payload"]) for row in rows] == [("unreadable", '"one"'), ("unreadable", '"two"')]
        assert "`$`" in errors_of(rows[0])[0][2]
        assert await notes(outside) == ["3"]


async def test_a_job_whose_lease_was_taken_rolls_back(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("fence")
    begun, taken = asyncio.Event(), asyncio.Event()

    @app.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await write(ctx, ctx.job.attempt)
        if ctx.job.attempt == 1:
            begun.set()
            await taken.wait()

    async with start(app, poll=0.05):
        await enqueue(app, 1)
        await begun.wait()
        # as a rescue by another process and a claim would
        await outside.execute("update chimpbase.job set process = null")
        await until(lambda: has(outside, 1))
        taken.set()
        await until(lambda: "lease lost" in caplog.text)
        assert await is_idle(outside)
        assert await notes(outside) == ["2"]


async def test_the_writes_of_a_job_and_its_completion_are_one_commit(start: Start, outside: asyncpg.Connection) -> None:
    app = App("one-commit")

    @app.worker(jobs)
    async def work(ctx: Ctx, n: int) -> None:
        await write(ctx, n)

    async with start(app) as runtime:
        engine = listen_to_engine(runtime, Ear())
        handlers = listen_to_handlers(runtime, Ear())
        await outside.execute("select chimpbase.enqueue('jobs', '1')")
        await until(lambda: is_idle(outside))
        said = [lexer.label(sql).strip("`") for sql in handlers.heard]
        assert said == ["begin", "insert into ledger values ('worker', $1)", "jobs.settle"]
        assert handlers.heard[-1].endswith("; commit")  # one message, so that a lease that is lost reaches no COMMIT
        assert not {"jobs.finish", "jobs.finish_alike"} & {lexer.label(sql) for sql in engine.heard}


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_commit_of_unknown_outcome_neither_loses_nor_doubles(
    start: Start, outside: asyncpg.Connection, lost: str
) -> None:
    """The connection is lost just before the server sees COMMIT, or just after it has committed."""
    app = App("unknown")
    times = 0

    def lose(sql: str) -> None:
        nonlocal times
        if sql.endswith("; commit") and times == 0:
            times += 1
            raise ConnectionResetError

    @app.worker(jobs, retry=Retry(max_attempts=1, first=timedelta(0)))
    async def work(ctx: Ctx, n: int) -> None:
        await write(ctx, n)

    async with start(app) as runtime:
        listen_to_handlers(runtime, Ear(before=lose) if lost == "before" else Ear(after=lose))
        await outside.execute("select chimpbase.enqueue('jobs', '1')")
        await until(lambda: is_idle(outside))
        assert times == 1
        assert await notes(outside) == ["1"]
        assert await history(outside, "job_dead") == []


async def test_a_job_that_ends_its_own_connection_each_time_is_buried_in_the_end(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("suicide")

    @app.worker(jobs, retry=Retry(max_attempts=2, first=timedelta(0)))
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.db.execute("select pg_terminate_backend(pg_backend_pid())")

    async with start(app):
        await enqueue(app, 1)
        await until(lambda: is_idle(outside), deadline_s=20)
        (row,) = await history(outside, "job_dead")
        assert (row["reason"], row["attempt"] - row["uncharged"]) == ("exhausted", 2)


async def has(outside: asyncpg.Connection, n: int) -> bool:
    return len(await notes(outside)) >= n
