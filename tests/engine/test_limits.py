"""Limits in one process: what may run at once, how often, in which order, and what happens when they change."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from time import monotonic
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Limits, Queue, Rate, Retry, Wf
from chimpbase._pg import lexer
from chimpbase._store import gates
from chimpbase.errors import UsageError
from tests.running import Ear, Start, history, is_idle, listen_to_engine, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

jobs = Queue("jobs", int)


class Watch:
    """Counts what runs, by key too, and remembers the most there ever were."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[int] = []

    def enter(self, key: str | None, number: int) -> None:
        self.order.append(number)
        for name in ("all", key or "-"):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])

    def leave(self, key: str | None) -> None:
        for name in ("all", key or "-"):
            self.now[name] -= 1


def watched(limits: Limits | None, *, pause_s: float = 0.01, slots: int = 50) -> tuple[App, Watch]:
    app, watch = App("limited"), Watch()

    @app.worker(jobs, limits=limits, concurrency=slots)
    async def work(ctx: Ctx, number: int) -> None:
        assert ctx.job is not None
        key = ctx.job.key
        watch.enter(key, number)
        await a_while(pause_s)
        watch.leave(key)

    return app, watch


async def a_while(seconds: float) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


async def test_concurrency_holds_for_the_queue_and_for_each_key(start: Start, outside: asyncpg.Connection) -> None:
    app, watch = watched(Limits(concurrency=5, key_concurrency=2))
    async with start(app) as runtime:
        for key in ("a", "b", "c", None):
            await app.ctx.queue.enqueue_many(jobs, range(20), key=key)
        await until(lambda: is_idle(outside))
        assert runtime is not None
    assert watch.most["all"] == 5
    assert [watch.most[key] for key in "abc"] == [2, 2, 2]
    assert len(watch.order) == 80


async def test_without_limits_there_is_no_gate(start: Start, outside: asyncpg.Connection) -> None:
    app, watch = watched(None)
    async with start(app):
        await app.ctx.queue.enqueue_many(jobs, range(20), key="a")
        await until(lambda: is_idle(outside))
    assert await outside.fetchval("select count(*) from chimpbase.gate") == 0
    assert len(watch.order) == 20


async def test_a_tenants_backlog_does_not_delay_anothers_job(start: Start, outside: asyncpg.Connection) -> None:
    app, watch = watched(Limits(concurrency=4, fair=True), pause_s=0.001)
    async with start(app):
        await outside.execute("update chimpbase.queue set paused_at = now()")
        id = await the_value(outside, "select id from chimpbase.queue")
        await outside.execute(
            "insert into chimpbase.job_wait (id, enqueued_at, queue, key, payload) select nextval('chimpbase.job_id'), "
            "now(), $1, 'big', '1' from generate_series(1, 100000)",
            id,
        )
        await outside.execute("insert into chimpbase.key_news values ($1, 'big')", id)
        await outside.execute("update chimpbase.queue set paused_at = null")
        await until(lambda: len(watch.order) > 100)
        since = len(watch.order)
        await app.ctx.queue.enqueue(jobs, 7, key="small")
        await until(lambda: 7 in watch.order)
        assert watch.order.index(7) - since < 50
        await outside.execute("truncate chimpbase.job_wait")


async def test_a_rate_lets_a_burst_through_and_then_keeps_its_pace(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = watched(Limits(rate=Rate(10, per=1, burst=3)), pause_s=0)
    async with start(app):
        began = monotonic()
        await app.ctx.queue.enqueue_many(jobs, range(13))
        await until(lambda: is_idle(outside))
        took_s = monotonic() - began
    at = sorted(row["claimed_at"].timestamp() for row in await history(outside, "job_done"))
    assert at[2] - at[0] < 0.2
    assert took_s > 0.9
    for first, began_at in enumerate(at):
        for last in range(first, len(at)):
            assert last - first + 1 <= 3 + 10 * (at[last] - began_at) + 0.001


async def test_limits_may_change_while_jobs_run(start: Start, outside: asyncpg.Connection) -> None:
    app, watch = watched(None, pause_s=0.02, slots=20)
    async with start(app) as runtime:
        await app.ctx.queue.enqueue_many(jobs, range(600))
        await until(lambda: watch.now["all"] == 20)
        await override(runtime, {"concurrency": 3})
        await until(lambda: watch.now["all"] <= 3)
        watch.most.clear()
        await until(lambda: len(watch.order) > 250)
        assert watch.most["all"] == 3
        await override(runtime, {"concurrency": 6})
        await until(lambda: watch.now["all"] == 6)
        await override(runtime, {})
        await until(lambda: is_idle(outside))
    assert sorted(watch.order) == list(range(600))


async def test_a_deploy_does_not_take_back_an_operators_word(start: Start, outside: asyncpg.Connection) -> None:
    app, _ = watched(Limits(concurrency=2))
    async with start(app) as runtime:
        await override(runtime, {"concurrency": 1})
    later, watch = watched(Limits(concurrency=5, key_concurrency=4))
    async with start(later) as runtime:
        (status,) = await listed(runtime)
        assert status.effective == {"concurrency": 1, "key_concurrency": 4}
        await later.ctx.queue.enqueue_many(jobs, range(10))
        await until(lambda: is_idle(outside))
        assert await override(runtime, {"concurrency": 1}, name="nobody's") is None
    assert watch.most["all"] == 1
    free, _ = watched(None)
    async with start(free, workers=False) as runtime:
        (status,) = await listed(runtime)
    assert (status.declared, status.override) == ({}, {"concurrency": 1})


async def test_an_admission_counts_afresh_whatever_the_databases_isolation(
    start: Start, outside: asyncpg.Connection
) -> None:
    name = await the_value(outside, "select quote_ident(current_database())")
    await outside.execute(f"alter database {name} set default_transaction_isolation to 'serializable'")
    app, watch = watched(Limits(concurrency=2))
    async with start(app) as runtime:
        lanes: Any = runtime._lanes
        async with lanes.acquire() as connection:
            assert await connection.fetch_value("show transaction_isolation") == "read committed"
        await outside.execute("select chimpbase.enqueue('jobs', to_jsonb(n)) from generate_series(1, 10) n")
        await until(lambda: is_idle(outside))
    assert watch.most["all"] == 2


async def override(runtime: Any, limits: dict[str, object], *, name: str = "jobs") -> Any:
    async with runtime._lanes.acquire() as connection:
        return await gates.override(connection, name=name, limits=limits)


async def listed(runtime: Any) -> list[gates.GateStatus]:
    async with runtime._lanes.acquire() as connection:
        return await gates.list_all(connection)


@pytest.mark.parametrize(("ordered", "wanted"), [(True, [1, 1, 2, 3]), ("pass", [1, 2, 3, 1])])
async def test_a_failed_job_holds_its_key_where_order_is_strict(
    start: Start, outside: asyncpg.Connection, ordered: Any, wanted: list[int]
) -> None:
    app, order = App("order"), list[int]()

    @app.worker(jobs, limits=Limits(ordered=ordered), retry=Retry(first=timedelta(seconds=0.4), jitter=0))
    async def work(ctx: Ctx, number: int) -> None:
        order.append(number)
        assert ctx.job is not None
        if number == 1 and ctx.job.attempt == 1:
            raise RuntimeError

    async with start(app):
        await app.ctx.queue.enqueue_many(jobs, [1, 2, 3], key="a")
        await until(lambda: is_idle(outside))
    assert order == wanted


async def test_limits_hold_for_subscriptions_and_for_activations(start: Start, outside: asyncpg.Connection) -> None:
    app, watch = App("kinds"), Watch()

    async def watched_span(name: str) -> None:
        watch.now[name] += 1
        watch.most[name] = max(watch.most[name], watch.now[name])
        await a_while(0.01)
        watch.now[name] -= 1

    @app.subscribe("happened", limits=Limits(concurrency=2))
    async def deliver(ctx: Ctx, event: int) -> None:
        await watched_span("deliveries")

    async def stay() -> None:
        await watched_span("activations")

    @app.workflow("flow", limits=Limits(concurrency=3))
    async def flow(wf: Wf) -> None:
        await wf.step("stay", stay)
        await wf.sleep(0.05)
        await wf.step("stay-again", stay)

    async with start(app):
        for n in range(12):
            await outside.execute("select chimpbase.publish('happened', to_jsonb($1::int))", n)
            await outside.execute("select chimpbase.start_workflow('flow')")
        await until(lambda: is_idle(outside))
    assert (watch.most["deliveries"], watch.most["activations"]) == (2, 3)
    assert await outside.fetchval("select count(*) from chimpbase.run where state = 'completed'") == 12


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_admission_whose_answer_is_lost_loses_no_job(
    start: Start, outside: asyncpg.Connection, moment: str
) -> None:
    app, watch = watched(Limits(concurrency=2, key_concurrency=1))
    lost: list[str] = []

    def lose(sql: str) -> None:
        if len(lost) < 2 and lexer.label(sql) == "gates.admit":
            lost.append(sql)
            raise ConnectionResetError

    async with start(app) as runtime:
        await until(lambda: the_value(outside, "select count(*) = 1 from chimpbase.gate where settled"))
        listen_to_engine(runtime, Ear(before=lose) if moment == "before" else Ear(after=lose))
        for key in ("a", "b", "c"):
            await app.ctx.queue.enqueue_many(jobs, range(5), key=key)
        await until(lambda: is_idle(outside))
    assert len(lost) == 2
    assert sorted(watch.order) == sorted([*range(5)] * 3)
    assert watch.most["all"] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": 1.5},
        {"concurrency": "3"},
        {"key_concurrency": -1},
        {"rate": 10},
        {"key_rate": (1, 2)},
        {"ordered": "yes"},
        {"ordered": 1},
        {"ordered": True, "key_concurrency": 2},
        {"fair": None},
    ],
)
def test_limits_refuse_what_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be|Drop one"):
        Limits(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0, "per": 1},
        {"limit": 2**40, "per": 1},
        {"limit": True, "per": 1},
        {"limit": 1, "per": 0},
        {"limit": 1, "per": float("nan")},
        {"limit": 1, "per": "1 s"},
        {"limit": 1, "per": 1, "burst": 0},
        {"limit": 1, "per": timedelta(days=400)},
    ],
)
def test_a_rate_refuses_what_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Rate(wrong.pop("limit"), **wrong)


def test_limits_go_where_they_can_hold() -> None:
    app = App("wrong")
    with pytest.raises(UsageError, match="limits must be"):

        @app.worker("w", limits={"concurrency": 1})  # type: ignore[call-overload]
        async def work(ctx: Ctx, n: int) -> None: ...

    with pytest.raises(UsageError, match="has no key"):

        @app.workflow("flow", limits=Limits(ordered=True))
        async def flow(wf: Wf) -> None: ...
