"""Schedules that are made, changed and stopped at run time, in the transaction that needs them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Occurrence, Queue, SyncCtx, every
from chimpbase._core.errors import NotFound, NotRegistered, PayloadError, UsageError, WrongState
from chimpbase.testing import rehearse
from tests.running import Ear, Start, listen_to_handlers, notes, the_value
from tests.waiting import until

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


@dataclass
class Customer:
    id: int
    since: datetime


bills = Queue("bill", Customer)
ADA = Customer(1, datetime(2026, 1, 1, tzinfo=UTC))
BOB = Customer(2, datetime(2026, 2, 2, tzinfo=UTC))


def billing() -> tuple[App, list[tuple[datetime, Customer]], list[Customer]]:
    app, invoices, billed = App("billing"), list[tuple[datetime, Customer]](), list[Customer]()

    @app.worker(bills)
    async def bill(ctx: Ctx, customer: Customer) -> None:
        billed.append(customer)

    @app.cron(name="invoice")
    async def invoice(ctx: Ctx, due: Occurrence[Customer]) -> None:
        invoices.append((due.due_at, due.payload))

    return app, invoices, billed


def rehearsed(app: App, dsn: str) -> Any:
    return rehearse(app, database_url=dsn)


async def test_each_customer_has_a_schedule_with_a_payload_of_its_own(dsn: str) -> None:
    app, invoices, billed = billing()
    async with rehearsed(app, dsn) as t:
        async with t.transaction() as ctx:
            made = await ctx.cron.schedule("invoice:1", "0 * * * *", to="invoice", payload=ADA)
            await ctx.cron.schedule("invoice:2", every(hours=2), to="invoice", payload=BOB)
            await ctx.cron.schedule("bill:1", "30 * * * *", to=bills, payload=ADA)
        assert (made.to, made.declared, made.tz, made.last_at) == ("invoice", False, "UTC", None)
        assert made.payload == {"id": 1, "since": "2026-01-01T00:00:00Z"}
        start = await t.now()
        await t.advance(timedelta(hours=6))
        of_ada = [at for at, customer in invoices if customer == ADA]
        first = start.replace(minute=0, second=0, microsecond=0) + HOUR
        assert of_ada == [first + n * HOUR for n in range(6)]
        of_bob = [at for at, customer in invoices if customer == BOB]
        assert len(of_bob) == 3
        assert {at.hour % 2 for at in of_bob} == {0}
        assert billed == [ADA] * 6


async def test_a_schedule_is_part_of_the_transaction_that_makes_it(dsn: str) -> None:
    app, _, billed = billing()
    async with rehearsed(app, dsn) as t:
        with pytest.raises(ZeroDivisionError):
            async with t.transaction() as ctx:
                await ctx.cron.schedule("a", every(hours=1), to=bills, payload=ADA)
                assert [one.name for one in await ctx.cron.list()] == ["a"]
                raise ZeroDivisionError
        async with t.transaction() as ctx:
            assert await ctx.cron.list() == []
            with pytest.raises(NotFound):
                await ctx.cron.get("a")
        await t.advance(2 * HOUR)
        assert billed == []


async def test_a_paused_schedule_rests_and_goes_on_after_the_present(dsn: str) -> None:
    app, invoices, _ = billing()
    async with rehearsed(app, dsn) as t:
        async with t.transaction() as ctx:
            await ctx.cron.schedule("a", every(hours=1), to="invoice", payload=ADA, misfire="all")
            await ctx.cron.pause("a")
            await ctx.cron.pause("a")
            assert (await ctx.cron.get("a")).paused_at is not None
        await t.advance(3 * HOUR)
        assert invoices == []
        async with t.transaction() as ctx:
            await ctx.cron.resume("a")
            await ctx.cron.resume("a")
            resumed = await ctx.cron.get("a")
        assert resumed.paused_at is None
        assert resumed.next_at > await t.now()
        await t.advance(HOUR)
        assert [at for at, _ in invoices] == [resumed.next_at]


async def test_a_changed_schedule_aims_anew_and_an_unchanged_one_does_not(dsn: str) -> None:
    app, invoices, _ = billing()
    async with rehearsed(app, dsn) as t:
        async with t.transaction() as ctx:
            first = await ctx.cron.schedule("a", "0 9 * * *", to="invoice", payload=ADA, tz="Europe/Lisbon")
            same = await ctx.cron.schedule("a", "0 9 * * *", to="invoice", payload=BOB, tz="Europe/Lisbon")
            assert (same.next_at, same.payload["id"]) == (first.next_at, 2)
            other = await ctx.cron.schedule("a", "0 9 * * *", to="invoice", payload=BOB, tz="Asia/Tokyo")
            assert other.next_at != first.next_at
            assert await ctx.cron.next("a", count=2) == [other.next_at, other.next_at + timedelta(days=1)]
        await t.advance(timedelta(days=2))
        assert [(at.hour, customer) for at, customer in invoices] == [(0, BOB), (0, BOB)]


async def test_a_removed_schedule_is_gone_and_its_name_is_free(dsn: str) -> None:
    app, invoices, _ = billing()
    async with rehearsed(app, dsn) as t:
        async with t.transaction() as ctx:
            await ctx.cron.schedule("a", every(hours=1), to="invoice", payload=ADA)
            assert await ctx.cron.remove("a")
            assert not await ctx.cron.remove("a")
        await t.advance(2 * HOUR)
        assert invoices == []
        for verb in (lambda cron: cron.pause("a"), lambda cron: cron.resume("a"), lambda cron: cron.next("a")):
            with pytest.raises(NotFound, match="No schedule"):
                async with t.transaction() as ctx:
                    await verb(ctx.cron)


async def test_run_now_makes_one_job_more(dsn: str) -> None:
    app, invoices, billed = billing()
    async with rehearsed(app, dsn) as t:
        async with t.transaction() as ctx:
            await ctx.cron.schedule("a", "0 0 1 1 *", to="invoice", payload=ADA)
            await ctx.cron.schedule("b", "0 0 1 1 *", to=bills, payload=ADA)
            await ctx.cron.pause("b")
            await ctx.cron.run_now("a")
            await ctx.cron.run_now("a", payload=BOB)
            await ctx.cron.run_now("b", payload={"id": 2, "since": "2026-02-02T00:00:00Z"})
        await t.drain()
        assert [customer for _, customer in invoices] == [ADA, BOB]
        assert billed == [BOB]
        async with t.transaction() as ctx:
            with pytest.raises(NotFound):
                await ctx.cron.run_now("c")
            with pytest.raises(PayloadError):
                await ctx.cron.run_now("a", payload=7)


async def test_schedules_are_listed_by_name_a_page_at_a_time(dsn: str) -> None:
    app, _, _ = billing()
    async with rehearsed(app, dsn) as t:
        async with t.transaction() as ctx:
            for number in range(5):
                await ctx.cron.schedule(f"a%{number}", "@daily", to=bills, payload=ADA)
            await ctx.cron.schedule("b", "@daily", to=bills, payload=ADA)
            page = await ctx.cron.list(prefix="a%", limit=3)
            assert [one.name for one in page] == ["a%0", "a%1", "a%2"]
            rest = await ctx.cron.list(prefix="a%", after=page[-1].name)
            assert [one.name for one in rest] == ["a%3", "a%4"]
            assert await ctx.cron.list(prefix="%") == []


async def test_a_plain_function_has_the_same_verbs(dsn: str) -> None:
    app, invoices, _ = billing()

    @app.action
    def sign_up(ctx: SyncCtx, number: int) -> list[str]:
        ctx.cron.schedule(
            f"invoice:{number}", every(hours=1), to="invoice", payload={"id": 3, "since": "2026-01-01T00:00:00Z"}
        )
        ctx.cron.pause(f"invoice:{number}")
        ctx.cron.resume(f"invoice:{number}")
        ctx.cron.run_now(f"invoice:{number}")
        assert ctx.cron.next(f"invoice:{number}", count=1) == [ctx.cron.get(f"invoice:{number}").next_at]
        ctx.cron.schedule("gone", "@daily", to=bills, payload=ADA)
        ctx.cron.remove("gone")
        return [one.name for one in ctx.cron.list()]

    async with rehearsed(app, dsn) as t:
        assert await t.call(sign_up, 3) == ["invoice:3"]
        await t.drain()
        assert [customer.id for _, customer in invoices] == [3]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda cron: cron.schedule("a", "61 * * * *", to=bills, payload=ADA), UsageError, "not valid"),
        (lambda cron: cron.schedule("a", "0 0 30 2 *", to=bills, payload=ADA), UsageError, "never fires"),
        (lambda cron: cron.schedule("a", "@daily", to=bills, payload=ADA, tz="Mars"), UsageError, "time zone"),
        (lambda cron: cron.schedule("a", 7, to=bills, payload=ADA), UsageError, "must be text"),
        (lambda cron: cron.schedule("a", "@daily", to=bills, payload=1), PayloadError, "schedule 'a'"),
        (lambda cron: cron.schedule("a", "@daily", to="bill"), PayloadError, "schedule 'a'"),
        (lambda cron: cron.schedule("a", "@daily", to="bil", payload=1), NotRegistered, "did you mean 'bill'"),
        (lambda cron: cron.schedule("a\0", "@daily", to=bills, payload=ADA), PayloadError, "control"),
        (lambda cron: cron.schedule("a\ud800", "@daily", to=bills, payload=ADA), PayloadError, "surrogate"),
        (lambda cron: cron.schedule("a" * 513, "@daily", to=bills, payload=ADA), PayloadError, "513 bytes"),
        (lambda cron: cron.schedule("", "@daily", to=bills, payload=ADA), PayloadError, "empty"),
        (lambda cron: cron.schedule(1, "@daily", to=bills, payload=ADA), PayloadError, "must be text"),
        (lambda cron: cron.schedule("a", "@daily", to=bills, payload=ADA, misfire=1), UsageError, "misfire"),
        (lambda cron: cron.schedule("a", "@daily", to=bills, payload=ADA, overlap=None), UsageError, "overlap"),
        (lambda cron: cron.schedule("a", "@daily", to=bills, payload=ADA, max_missed=10**9), UsageError, "max_missed"),
        (lambda cron: cron.schedule("a", "@daily", to=bills, payload=ADA, jitter=True), UsageError, "jitter"),
        (lambda cron: cron.schedule("a", "@daily", to=bills, payload=ADA, jitter=float("inf")), UsageError, "jitter"),
        (lambda cron: cron.list(limit=0), UsageError, "limit"),
        (lambda cron: cron.list(prefix=1), UsageError, "prefix"),
        (lambda cron: cron.list(after="\ud800"), PayloadError, "after"),
        (lambda cron: cron.next("a", count=True), UsageError, "count"),
        (lambda cron: cron.pause("\ud800"), PayloadError, "surrogate"),
    ],
)
async def test_what_is_wrong_is_refused_before_any_statement(
    start: Start, make: Any, error: type[Exception], says: str
) -> None:
    app, _, _ = billing()
    async with start(app, workers=False) as runtime:
        ear = listen_to_handlers(runtime, Ear())
        with pytest.raises(error, match=says):
            async with app.transaction() as ctx:
                await make(ctx.cron)
        assert ear.heard == []


async def test_a_schedule_of_the_code_is_changed_in_the_code(start: Start, outside: asyncpg.Connection) -> None:
    app = App("declared")

    @app.cron("0 0 1 1 *", payload=5)
    async def yearly(ctx: Ctx, due: Occurrence[int]) -> None:
        await ctx.db.execute("insert into ledger values ('yearly', $1)", str(due.payload))

    async with start(app):
        async with app.transaction() as ctx:
            with pytest.raises(WrongState, match="declared by code"):
                await ctx.cron.schedule("yearly", "@daily", to=yearly, payload=1)
            # an answer, not an error of the transaction
            assert (await ctx.cron.get("yearly")).declared
            await ctx.cron.run_now("yearly")
        await until(lambda: notes(outside))
        async with app.transaction() as ctx:
            await ctx.cron.remove("yearly")
    assert await notes(outside) == ["5"]
    async with start(app, workers=False):
        assert await the_value(outside, "select expression from chimpbase.schedule") == "0 0 1 1 *"


async def test_a_bound_transaction_makes_schedules_too(start: Start, outside: asyncpg.Connection) -> None:
    app, _, billed = billing()
    async with start(app):
        async with outside.transaction():
            ctx = app.bind(outside)
            await ctx.cron.schedule("a", every(seconds=1), to=bills, payload=ADA)
            assert await the_value(outside, "select count(*) from chimpbase.schedule where name = 'a'") == 1
        await until(lambda: billed)
        async with outside.transaction():
            assert await app.bind(outside).cron.remove("a")
    assert set(map(repr, billed)) == {repr(ADA)}
