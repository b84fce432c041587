"""Group commit: batches, lanes, bad items, cancelled callers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase._core.errors import OutcomeUnknown, QueryError, UniqueViolation, Unreachable, UsageError
from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.db import Db
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Flush:
    """Doubles its items; fails as told; holds each flush until `gate` is set."""

    def __init__(self, *, bad: Sequence[int] = (), error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._bad, self._error = bad, error or QueryError("bad item")

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await self.gate.wait()
        await asyncio.sleep(0)
        self.running -= 1
        if any(item in self._bad for item in items):
            raise self._error
        return [item * 2 for item in items]


async def test_all_who_submit_together_share_a_flush() -> None:
    flush = Flush()
    coalescer = Coalescer(flush, max_batch=100)
    assert await asyncio.gather(*(coalescer.submit(n) for n in range(50))) == [n * 2 for n in range(50)]
    assert flush.batches == [list(range(50))]


async def test_what_comes_during_a_flush_goes_into_the_next() -> None:
    flush = Flush()
    flush.gate.clear()
    coalescer = Coalescer(flush, max_batch=3)
    first = coalescer.submit(1)
    await until(lambda: flush.batches)
    rest = [coalescer.submit(n) for n in range(2, 7)]
    flush.gate.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6, 8, 10, 12]
    assert flush.batches == [[1], [2, 3, 4], [5, 6]]
    assert await coalescer.submit(9) == 18


async def test_no_more_flushes_run_than_there_are_lanes() -> None:
    flush = Flush()
    coalescer = Coalescer(flush, max_batch=2, lanes=3)
    assert await asyncio.gather(*(coalescer.submit(n) for n in range(40))) == [n * 2 for n in range(40)]
    assert flush.most_running == 3
    assert sorted(n for batch in flush.batches for n in batch) == list(range(40))


async def test_much_is_parted_among_the_free_lanes_and_little_is_not() -> None:
    flush = Flush()
    coalescer = Coalescer(flush, max_batch=100, lanes=2, least_part=10)
    assert await asyncio.gather(*(coalescer.submit(n) for n in range(19))) == [n * 2 for n in range(19)]
    assert [len(batch) for batch in flush.batches] == [19]
    flush.batches.clear()
    assert await asyncio.gather(*(coalescer.submit(n) for n in range(31))) == [n * 2 for n in range(31)]
    assert [len(batch) for batch in flush.batches] == [16, 15]
    assert flush.most_running == 2


async def test_beside_a_part_that_is_flushed_another_begins_only_with_as_much() -> None:
    flush = Flush()
    flush.gate.clear()
    coalescer = Coalescer(flush, max_batch=100, lanes=2, least_part=2)
    answers = [coalescer.submit(n) for n in range(3)]
    await until(lambda: flush.batches)
    answers += [coalescer.submit(n) for n in (3, 4)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert flush.batches == [[0, 1, 2]]
    answers += [coalescer.submit(n) for n in (5, 6)]
    await until(lambda: len(flush.batches) == 2)
    assert flush.batches[1] == [3, 4, 5, 6]
    answers.append(coalescer.submit(7))  # for a lane that has ended
    flush.gate.set()
    assert await asyncio.gather(*answers) == [n * 2 for n in range(8)]
    assert flush.batches[2:] == [[7]]


@given(count=st.integers(1, 80), lanes=st.integers(1, 4), least=st.integers(1, 30), most=st.integers(1, 40))
def test_each_is_answered_however_it_is_parted(count: int, lanes: int, least: int, most: int) -> None:
    async def story() -> None:
        flush = Flush(bad=[17])
        coalescer = Coalescer(flush, max_batch=most, lanes=lanes, least_part=least)

        async def ask(n: int) -> int:
            for _ in range(n % 5):
                await asyncio.sleep(0)
            return await coalescer.submit(n)

        answers = await asyncio.gather(*map(ask, range(count)), return_exceptions=True)
        for n, answer in enumerate(answers):
            assert isinstance(answer, QueryError) if n == 17 else answer == n * 2
        assert flush.most_running <= lanes
        await coalescer.close()

    asyncio.run(story())


@given(bad=st.sets(st.integers(0, 30), max_size=6), count=st.integers(1, 30))
def test_a_bad_item_fails_alone(bad: set[int], count: int) -> None:
    async def story() -> None:
        flush = Flush(bad=sorted(bad))
        coalescer = Coalescer(flush, max_batch=1000)
        answers = await asyncio.gather(*(coalescer.submit(n) for n in range(count)), return_exceptions=True)
        for n, answer in enumerate(answers):
            assert isinstance(answer, QueryError) if n in bad else answer == n * 2

    asyncio.run(story())


async def test_one_bad_item_among_many_costs_few_statements() -> None:
    flush = Flush(bad=[613])
    coalescer = Coalescer(flush, max_batch=1000)
    answers = await asyncio.gather(*(coalescer.submit(n) for n in range(1000)), return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, QueryError)] == [613]
    assert len(flush.batches) < 25


@pytest.mark.parametrize("error", [Unreachable("gone"), OutcomeUnknown("who knows"), ZeroDivisionError("ours")])
async def test_an_error_that_is_no_items_fault_reaches_all_and_is_not_retried(error: Exception) -> None:
    flush = Flush(bad=[3], error=error)
    coalescer = Coalescer(flush, max_batch=100)
    answers = await asyncio.gather(*(coalescer.submit(n) for n in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(error)] * 5
    assert len(flush.batches) == 1
    assert len({id(answer) for answer in answers}) == 5
    assert await coalescer.submit(7) == 14


async def test_a_copied_error_keeps_its_data_and_its_cause() -> None:
    error = UniqueViolation("twice", sqlstate="23505", constraint="pk", table="t", detail="Key (a)=(1).")
    error.__cause__ = cause = ValueError("driver")
    coalescer = Coalescer(Flush(bad=[1], error=error), max_batch=10)
    with pytest.raises(UniqueViolation, match="twice") as caught:
        await coalescer.submit(1)
    assert (caught.value.constraint, caught.value.table, caught.value.sqlstate) == ("pk", "t", "23505")
    assert caught.value.__cause__ is cause


async def test_a_cancelled_caller_disturbs_nobody() -> None:
    flush = Flush()
    coalescer = Coalescer(flush, max_batch=10)
    tasks = [asyncio.ensure_future(coalescer.submit(n)) for n in range(3)]
    tasks[1].cancel()
    assert await asyncio.gather(tasks[0], tasks[2]) == [0, 4]
    assert flush.batches == [[0, 2]]
    flush.gate.clear()
    late = coalescer.submit(5)
    other = coalescer.submit(6)
    await until(lambda: len(flush.batches) == 2)
    late.cancel()
    flush.gate.set()
    assert await other == 12
    assert late.cancelled()


async def test_close_flushes_what_waits_and_takes_no_more() -> None:
    flush = Flush()
    coalescer = Coalescer(flush, max_batch=2)
    answers = [coalescer.submit(n) for n in range(5)]
    await coalescer.close()
    assert [answer.result() for answer in answers] == [0, 2, 4, 6, 8]
    with pytest.raises(UsageError, match="takes no more work"):
        coalescer.submit(1)
    await coalescer.close()


async def test_a_flush_with_too_few_answers_is_told_so() -> None:
    async def flush(items: list[int]) -> Sequence[int]:
        return items[1:]

    coalescer = Coalescer(flush, max_batch=10)
    with pytest.raises(UsageError, match="A flush of 1 items gave 0 answers"):
        await coalescer.submit(1)


async def test_rows_of_many_callers_commit_in_few_transactions(dsn: str) -> None:
    db = await Db.open(dsn, application_name="test")
    await db.execute("create table t (a int primary key, at xid8 default pg_current_xact_id())")

    async def flush(items: list[int]) -> Sequence[int]:
        rows = await db.fetch("insert into t (a) select unnest($1::int[]) returning a", items)
        return [row["a"] for row in rows]

    coalescer = Coalescer(flush, max_batch=100)
    answers = await asyncio.gather(*(coalescer.submit(n % 199) for n in range(200)), return_exceptions=True)
    assert answers[:199] == list(range(199))
    assert isinstance(answers[199], UniqueViolation)
    assert await db.fetch_value("select count(distinct at) < 20 and count(*) = 199 from t")
    await db.close(grace=timedelta(seconds=1))


async def test_an_item_costs_little() -> None:
    async def flush(items: list[int]) -> Sequence[int]:
        await asyncio.sleep(0)
        return items

    coalescer = Coalescer(flush, max_batch=1000)

    async def caller() -> None:
        for n in range(50):
            assert await coalescer.submit(n) == n

    began = perf_counter()
    await asyncio.gather(*(caller() for _ in range(400)))
    # 20,000 items; alone on one core it takes about 0.1 s.
    assert perf_counter() - began < 2
