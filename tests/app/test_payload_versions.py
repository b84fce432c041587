"""Payloads that changed their shape while jobs were waiting."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Queue
from chimpbase.errors import UsageError
from tests.app.laborers import run_errand
from tests.running import Start, history, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio


@dataclass
class Old:
    name: str


@dataclass
class Middle:
    first: str
    last: str


@dataclass
class New:
    first: str
    last: str
    country: str


def third() -> Queue[New]:
    queue = Queue("people", New, version=3)

    @queue.upcast(from_version=1)
    def split(old: dict[str, Any]) -> dict[str, Any]:
        first, last = old["name"].split(" ")
        return {"first": first, "last": last}

    @queue.upcast(from_version=2)
    def settle(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "country": "PT"}

    return queue


def working(queue: Queue[Any], *, batch: int | None = None) -> App:
    app = App("people")

    async def write(ctx: Ctx, payload: Any) -> None:
        for one in payload if batch else [payload]:
            await ctx.db.execute("insert into ledger values ('people', $1)", repr(one))

    app.register(app.worker(queue, **({"batch": batch} if batch else {}))(write))  # type: ignore[call-overload]
    return app


async def _enqueue(start: Start, queue: Queue[Any], payload: Any) -> None:
    app = App("producer", register=[queue])
    async with start(app, workers=False):
        async with app.transaction() as ctx:
            await ctx.queue.enqueue(queue, payload)


@pytest.mark.parametrize("batch", [None, 10])
async def test_old_payloads_are_read_through_all_upcasts(
    start: Start, outside: asyncpg.Connection, batch: int | None
) -> None:
    await _enqueue(start, Queue("people", Old), Old("Ada Byron"))
    await _enqueue(start, Queue("people", Middle, version=2), Middle("Bob", "Dylan"))
    await _enqueue(start, third(), New("Eva", "Peron", "AR"))
    await outside.execute("select chimpbase.enqueue('people', '{\"name\": \"Plain Sql\"}')")
    async with start(working(third(), batch=batch)):
        await until(lambda: is_idle(outside))
    assert sorted(await notes(outside)) == sorted(
        repr(New(*words))
        for words in (("Ada", "Byron", "PT"), ("Bob", "Dylan", "PT"), ("Eva", "Peron", "AR"), ("Plain", "Sql", "PT"))
    )


@pytest.mark.parametrize("batch", [None, 10])
async def test_a_newer_payload_waits_for_a_newer_process(
    start: Start, outside: asyncpg.Connection, batch: int | None
) -> None:
    await _enqueue(start, third(), New("Eva", "Peron", "AR"))
    await _enqueue(start, Queue("people", Old), Old("Ada Byron"))
    async with start(working(Queue("people", Old), batch=batch)):
        await until(lambda: outside.fetchval("select count(*) = 1 from chimpbase.job_later"))
        await until(lambda: outside.fetchval("select not exists (select 1 from chimpbase.job)"))
    assert await notes(outside) == [repr(Old("Ada Byron"))]
    assert await outside.fetchval("select attempt - uncharged from chimpbase.job_later") == 0
    await outside.execute("update chimpbase.job_later set due_at = now()")
    async with start(working(third(), batch=batch)):
        await until(lambda: is_idle(outside))
    assert repr(New("Eva", "Peron", "AR")) in await notes(outside)


async def test_a_start_tells_how_many_waiting_jobs_do_not_fit_any_more(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with start(working(Queue("people", Old))):
        await until(
            lambda: outside.fetchval("select fingerprint is not null from chimpbase.queue where name = 'people'")
        )
    await outside.execute("update chimpbase.queue set paused_at = now()")
    await outside.execute("select chimpbase.enqueue('people', '{\"name\": \"Ada Byron\"}') from generate_series(1, 7)")
    await outside.execute('select chimpbase.enqueue(\'people\', \'{"first": "A", "last": "B"}\', \'{"delay": 600}\')')
    with caplog.at_level(logging.WARNING, "chimpbase"):
        async with start(working(Queue("people", Middle))):
            await until(lambda: "do not fit" in caplog.text)
        assert "7 of 8 waiting jobs of queue 'people' do not fit Queue('people', Middle) any more" in caplog.text
        caplog.clear()
        async with start(working(Queue("people", Middle))):  # it is the known shape now
            await until(lambda: outside.fetchval("select count(*) = 1 from chimpbase.process where dead_at is null"))
    assert "do not fit" not in caplog.text


async def test_an_upcast_that_fails_makes_the_job_unreadable(start: Start, outside: asyncpg.Connection) -> None:
    await _enqueue(start, Queue("people", Old), Old("Cher"))
    async with start(working(third())):
        await until(lambda: is_idle(outside))
    (dead,) = await history(outside, "job_dead")
    assert dead["reason"] == "unreadable"
    assert "upcast from 1" in str(dead["errors"])


async def test_a_gap_in_the_upcasts_is_told(start: Start, outside: asyncpg.Connection) -> None:
    await _enqueue(start, Queue("people", Old), Old("Ada Byron"))
    async with start(working(Queue("people", New, version=3))):
        await until(lambda: is_idle(outside))
    assert "nothing upcasts from 1" in str((await history(outside, "job_dead"))[0]["errors"])


async def test_a_gap_inside_a_chain_of_upcasts_is_refused_at_the_start(start: Start) -> None:
    gap, tail = Queue("gap", New, version=4), Queue("tail", New, version=4)
    for queue, steps in ((gap, (1, 3)), (tail, (3,))):
        for step in steps:
            queue.upcast(from_version=step)(dict)
    with pytest.raises(UsageError, match=r"an upcast from 1, but none from 2"):
        async with start(App("people", register=[gap])):
            pass
    async with start(App("people", register=[tail])):  # what was older is gone, as far as this code knows
        pass


def test_what_a_version_and_an_upcast_must_be() -> None:
    for wrong in (0, -1, True, 1.0, "2", 2**31):
        with pytest.raises(UsageError, match="whole number from 1"):
            Queue("people", Old, version=wrong)  # type: ignore[call-overload]
    queue = third()
    with pytest.raises(UsageError, match="already"):
        queue.upcast(from_version=1)
    with pytest.raises(UsageError, match="nothing is to be upcast from 3"):
        queue.upcast(from_version=3)
    for wrong in (5, lambda: None, lambda a, b: a, _later):
        with pytest.raises(UsageError, match="upcast"):
            Queue("people", Old, version=2).upcast(from_version=1)(wrong)  # type: ignore[type-var]


async def _later(old: Any) -> Any:
    return old


async def test_a_child_process_reads_old_payloads_through_upcasts_too(
    start: Start, outside: asyncpg.Connection
) -> None:
    await _enqueue(start, Queue("errands", str), "short")
    async with start(App("crew", register=[run_errand])):
        await until(lambda: is_idle(outside))
    assert await notes(outside) == ["short, in full"]
