"""Dead letters: listed, given new attempts, deleted, and handled by a worker of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, DeadJob, DeadLetter, Queue, Retry, SyncCtx, Wf, errors, worker, workflow
from tests.running import Start, history, is_idle, left_over, notes, the_row, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

mail = Queue("mail", dict[str, Any])
print_ = Queue("print", int)


@worker(mail)
async def send(ctx: Ctx, letter: dict[str, Any]) -> DeadLetter | None:
    if letter.get("broken"):
        return DeadLetter("the address does not exist")
    await ctx.db.execute("insert into ledger (note) values ($1)", letter["to"])
    return None


@worker(print_, retry=Retry(max_attempts=2, first=timedelta(0)))
async def print_page(ctx: Ctx, number: int) -> None:
    raise ValueError(f"page {number} is empty")


async def dead(outside: asyncpg.Connection, count: int) -> None:
    async def enough() -> bool:
        return await the_value(outside, "select count(*) from chimpbase.job_dead") == count

    await until(enough)


async def test_dead_letters_are_listed_newest_first_with_filters_and_pages(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[send, print_page])) as runtime:
        letters = [
            await runtime.ctx.queue.enqueue(mail, {"to": f"{n}@x", "broken": True, "n": {"is": n}}) for n in range(5)
        ]
        page = await runtime.ctx.queue.enqueue(print_, 7)
        await dead(outside, 6)
        queue = runtime.ctx.queue
        everything = await queue.dead()
        assert sorted(one.job for one in everything) == sorted([*letters, page])
        assert [one.failed_at for one in everything] == sorted((one.failed_at for one in everything), reverse=True)
        (printed,) = await queue.dead(queue="print")
        assert (printed.job, printed.queue, printed.payload, printed.reason) == (page, "print", 7, "exhausted")
        assert (printed.attempts, printed.error_type) == (2, "ValueError")
        assert printed.error is not None
        assert "page 7 is empty" in printed.error
        (third,) = await queue.dead(queue=send, payload={"n": {"is": 3}})
        assert (third.job, third.error, third.reason) == (letters[3], "the address does not exist", "rejected")
        assert {one.job for one in await queue.dead(error="DeadLetter")} == set(letters)
        assert [one.job for one in await queue.dead(ids=[page, 10**15])] == [page]
        assert await queue.dead(until=everything[-1].failed_at) == []
        assert len(await queue.dead(since=everything[-1].failed_at, reason="rejected")) == 5
        first = await queue.dead(limit=4)
        assert [*first, *await queue.dead(limit=4, after=first[-1])] == everything
        assert await queue.count_dead(queue=mail) == 5
        assert await queue.count_dead(most=3) == 3


async def test_redriven_jobs_begin_anew_and_old_attempts_stay_fenced_out(
    start: Start, outside: asyncpg.Connection
) -> None:
    async with start(App("a", register=[print_page])) as runtime:
        job = await runtime.ctx.queue.enqueue(print_, 1)
        await dead(outside, 1)
        await outside.execute("update chimpbase.job_dead set crashes = 2")
        await runtime.ctx.queue.pause(print_page)
        assert await runtime.ctx.queue.redrive(queue=print_page) == 1

        async def ready() -> Any:
            return await outside.fetchrow("select * from chimpbase.job")

        row = await until(ready)
        assert (row["id"], row["attempt"], row["uncharged"], row["crashes"]) == (job, 2, 2, 0)
        await runtime.ctx.queue.resume(print_page)
        await dead(outside, 1)
        (again,) = await history(outside, "job_dead")
        assert (again["attempt"], again["uncharged"]) == (4, 2)
        assert [one["attempt"] for one in json.loads(again["errors"])] == [1, 2, 1, 2]


async def test_a_rate_spreads_redriven_jobs_and_a_limit_bounds_them(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[print_]), workers=False) as runtime:
        await outside.execute(
            "insert into chimpbase.job_dead (id, died_at, enqueued_at, queue, attempt, reason, payload) "
            "select n, now() - interval '1 hour' + n * interval '1 s', now(), queue.id, 3, 'exhausted', '1' "
            "from generate_series(1, 2500) n, chimpbase.queue"
        )
        heard = list[int]()
        assert await runtime.ctx.queue.redrive(queue=print_, rate=10, limit=1500, on_progress=heard.append) == 1500
        assert heard == [1000, 1500]
        assert await left_over(outside) == {"job_later": 1500, "job_dead": 1000}
        row = await the_row(
            outside,
            "select min(id) as first, max(id) as last, extract(epoch from max(due_at) - min(due_at))::float8 as span, "
            "count(distinct due_at) as instants from chimpbase.job_later",
        )
        assert (row["first"], row["last"], row["instants"]) == (1, 1500, 1500)
        assert row["span"] == pytest.approx(149.9)
        assert await runtime.ctx.queue.purge(queue=print_, limit=400) == 400
        assert await the_value(outside, "select min(id) from chimpbase.job_dead") == 1901
        assert await runtime.ctx.queue.purge(everything=True) == 600


async def test_a_redrive_that_is_rolled_back_moves_nothing(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[print_page])) as runtime:
        await runtime.ctx.queue.enqueue(print_, 1)
        await dead(outside, 1)
        with pytest.raises(RuntimeError):
            async with runtime.transaction() as ctx:
                assert await ctx.queue.redrive(everything=True) == 1
                raise RuntimeError
        assert await left_over(outside) == {"job_dead": 1}


async def test_two_that_redrive_at_once_move_each_job_once(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[print_]), workers=False) as runtime:
        await outside.execute(
            "insert into chimpbase.job_dead (id, enqueued_at, queue, attempt, reason, payload) "
            "select n, now(), queue.id, 3, 'exhausted', '1' from generate_series(1, 50) n, chimpbase.queue"
        )
        async with runtime.transaction() as one:
            assert await one.queue.redrive(limit=30, everything=True) == 30
        async with runtime.transaction() as other:
            assert await other.queue.redrive(everything=True) == 20
        assert await left_over(outside) == {"job_later": 50}


async def test_a_worker_of_dead_letters_gets_each_one_and_the_letter_stays(
    start: Start, outside: asyncpg.Connection
) -> None:
    got = list[DeadJob]()

    @worker("print.dead")
    async def mourn(ctx: Ctx, letter: DeadJob) -> None:
        got.append(letter)
        raise RuntimeError("this one fails too")

    @worker("print.dead.dead")
    async def never(ctx: Ctx, letter: DeadJob) -> None:
        got.append(letter)

    mourn = worker("print.dead", retry=Retry(max_attempts=1))(mourn.function)
    async with start(App("a", register=[print_page, mourn, never])) as runtime:
        job = await runtime.ctx.queue.enqueue(print_, 5)
        await dead(outside, 2)
        (envelope,) = got
        (listed,) = await runtime.ctx.queue.dead(queue="print")
        assert envelope == listed
        assert (envelope.job, envelope.queue, envelope.payload, envelope.attempts) == (job, "print", 5, 2)
        assert envelope.failed_at.tzinfo is not None
        assert {row["name"] for row in await history(outside, "job_dead")} == {"print", "print.dead"}
        await until(lambda: is_idle(outside))
        assert len(got) == 1


async def test_a_job_whose_process_died_too_often_reaches_the_worker_of_dead_letters(
    start: Start, outside: asyncpg.Connection
) -> None:
    got = list[DeadJob]()

    @worker("print.dead")
    async def mourn(ctx: Ctx, letter: DeadJob) -> None:
        got.append(letter)

    async with start(App("a", register=[print_, mourn]), workers=False) as runtime:
        await runtime.ctx.queue.enqueue(print_, 1)
    gone = await the_value(
        outside,
        "insert into chimpbase.process (app, host, pid, version, lease, dead_at) "
        "values ('a', 'gone', 1, '1', interval '1 s', now()) returning id",
    )
    await outside.execute("update chimpbase.job set process = $1, attempt = 1, crashes = 9", gone)
    async with start(App("a", register=[mourn])):
        await until(lambda: got)
    assert (got[0].reason, got[0].error_type) == ("crashed", "ProcessLost")


async def test_what_somebody_wrote_by_hand_is_listed_filtered_and_told_all_the_same(
    start: Start, outside: asyncpg.Connection
) -> None:
    got = list[DeadJob]()

    @worker("print.dead")
    async def mourn(ctx: Ctx, letter: DeadJob) -> None:
        got.append(letter)

    async with start(App("a", register=[print_page, mourn])) as runtime:
        await outside.execute(
            "insert into chimpbase.job (id, sort, queue, payload, headers) "
            "select 7, 7, id, 'no json', 'neither' from chimpbase.queue where name = 'print'"
        )
        await until(lambda: got)
        (listed,) = await runtime.ctx.queue.dead()
        assert (listed.payload, listed.reason, got[0].payload) == ("no json", "unreadable", "no json")
        assert await runtime.ctx.queue.dead(payload={"a": 1}) == []


async def test_activations_are_listed_but_neither_redriven_nor_purged(
    start: Start, outside: asyncpg.Connection
) -> None:
    @workflow("checkout")
    async def checkout(wf: Wf) -> None: ...

    async with start(App("a", register=[checkout]), workers=False) as runtime:
        await outside.execute(
            "insert into chimpbase.job_dead (id, enqueued_at, queue, attempt, reason, payload) "
            "select 1, now(), queue.id, 3, 'exhausted', '1' from chimpbase.queue"
        )
        assert len(await runtime.ctx.queue.dead()) == 1
        assert await runtime.ctx.queue.redrive(everything=True) == 0
        assert await runtime.ctx.queue.purge(everything=True) == 0


async def test_one_job_is_retried_by_its_id_dead_or_delayed(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[send])) as runtime:
        later = await runtime.ctx.queue.enqueue(mail, {"to": "later"}, delay=3600)
        assert await runtime.ctx.queue.retry(later) == "hurried"
        await until(lambda: is_idle(outside))
        broken = await runtime.ctx.queue.enqueue(mail, {"broken": True})
        await dead(outside, 1)
        await outside.execute("""update chimpbase.job_dead set payload = '{"to": "mended"}'""")
        assert await runtime.ctx.queue.retry(broken) == "redriven"
        await until(lambda: is_idle(outside))
        assert await notes(outside) == ["later", "mended"]
        with pytest.raises(errors.NotFound):
            await runtime.ctx.queue.retry(broken)


async def test_a_misuse_in_a_handler_is_not_blamed_on_the_payload(start: Start, outside: asyncpg.Connection) -> None:
    @worker("work")
    async def work(ctx: Ctx, n: int) -> None:
        await ctx.queue.enqueue("nobody has this queue", 1)

    async with start(App("a", register=[work])) as runtime:
        await runtime.ctx.queue.enqueue(work, 1)
        await until(lambda: is_idle(outside))
        (row,) = await history(outside, "job_dead")
        assert (row["reason"], row["attempt"]) == ("hopeless", 1)
        assert json.loads(row["errors"])[0]["error"] == "NotRegistered"


async def test_old_dead_letters_are_deleted(start: Start, outside: asyncpg.Connection) -> None:
    async with start(App("a", register=[print_]), workers=False):
        await outside.execute(
            "insert into chimpbase.job_dead (id, died_at, enqueued_at, queue, attempt, reason, payload) "
            "select n, now() - n * interval '1 day', now(), queue.id, 3, 'exhausted', '1' "
            "from generate_series(1, 40) n, chimpbase.queue"
        )
    async with start(App("a", register=[print_page]), dead_retention=timedelta(days=9.5)):
        assert await left_over(outside) == {"job_dead": 9}


async def test_a_queue_keeps_finished_jobs_as_long_as_its_worker_says(
    start: Start, outside: asyncpg.Connection
) -> None:
    @worker("forgotten", retention=None)
    async def forget(ctx: Ctx, number: int) -> None: ...

    @worker("kept", retention=timedelta(days=7))
    async def keep(ctx: Ctx, number: int) -> None: ...

    async with start(App("a", register=[forget, keep])) as runtime:
        await runtime.ctx.queue.enqueue(forget, 1)
        await runtime.ctx.queue.enqueue(keep, 1)
        await until(lambda: is_idle(outside))
        assert [row["name"] for row in await history(outside, "job_done")] == ["kept"]
        kept = await the_value(outside, "select retention from chimpbase.queue where name = 'kept'")
        assert kept == timedelta(days=7)
    with pytest.raises(errors.UsageError):
        worker("x", retention=-1)(keep.function)


async def test_conditions_that_make_no_sense_are_refused_before_anything_is_sent(start: Start) -> None:
    async with start(App("a", register=[print_]), workers=False) as runtime:
        queue = runtime.ctx.queue
        wrong: list[dict[str, Any]] = [
            {"reason": "bored"}, {"since": datetime(2026, 1, 1)}, {"until": "yesterday"}, {"ids": [0]}, {"ids": "12"},
            {"ids": 7}, {"error": 7}, {"error": "a\0"}, {"payload": float("nan")}, {"payload": "a\ud800"},
            {"quue": "x"}, {"limit": 0}, {"limit": True}, {"limit": 10**12},
        ]  # fmt: skip
        for condition in wrong:
            with pytest.raises(errors.UsageError):
                await queue.dead(**condition)
        with pytest.raises(errors.UsageError, match="everything=True"):
            await queue.redrive()
        with pytest.raises(errors.UsageError, match="everything=True"):
            await queue.purge(limit=5)
        rates: list[Any] = [0, -1, True, "1", float("inf"), float("nan")]
        for rate in rates:
            with pytest.raises(errors.UsageError):
                await queue.redrive(everything=True, rate=rate)
        with pytest.raises(errors.NotRegistered, match="did you mean 'print'"):
            await queue.dead(queue="prnt")
        assert await queue.dead(since=datetime(1, 1, 1, tzinfo=UTC)) == []


async def test_a_plain_function_has_the_same_verbs(start: Start, outside: asyncpg.Connection) -> None:
    @worker("control")
    def control(ctx: SyncCtx, number: int) -> None:
        (letter,) = ctx.queue.dead(queue=print_)
        assert ctx.queue.count_dead(ids=[letter.job]) == 1
        assert ctx.queue.purge(ids=[letter.job]) == 1
        assert ctx.queue.redrive(everything=True) == 0

    async with start(App("a", register=[print_page, control])) as runtime:
        await runtime.ctx.queue.enqueue(print_, 1)
        await dead(outside, 1)
        await runtime.ctx.queue.enqueue(control, 1)
        await until(lambda: is_idle(outside))
        assert await left_over(outside) == {}
