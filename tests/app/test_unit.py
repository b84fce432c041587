"""The unit of work: everything done with ctx happens together, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Event, Queue, SyncCtx, Wf
from chimpbase._core.errors import DatabaseError, QueryError, UsageError
from tests.running import Ear, Start, left_over, listen_to_handlers, notes

pytestmark = pytest.mark.anyio

mails = Queue("mail", str)
placed = Event("placed", str)


def shop() -> App:
    """An app that touches every primitive, and whose workers do nothing."""
    app = App("shop", register=[mails])

    @app.subscribe(placed)
    async def on_placed(ctx: Ctx, event: str) -> None: ...

    @app.workflow("checkout")
    async def checkout(wf: Wf, order: str) -> str:
        return order

    @app.action
    async def everything(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('everything', $1)", note)
        await ctx.queue.enqueue(mails, note)
        await ctx.queue.enqueue(mails, note, delay=60)
        await ctx.pubsub.publish(placed, note)
        await ctx.workflow.start(checkout, note, id=f"run {note}")
        await ctx.kv.set(f"key {note}", note)

    @app.action
    async def everything_then_fail(ctx: Ctx, note: str) -> None:
        await everything(ctx, note)
        raise ZeroDivisionError

    return app


async def test_what_an_action_did_exists_once_it_has_returned(start: Start, outside: asyncpg.Connection) -> None:
    app = shop()
    async with start(app, workers=False):
        await app.call("everything", "a")
        assert await left_over(outside) == {"job": 3, "job_later": 1, "event": 1, "run": 1, "kv": 1}
        assert await notes(outside) == ["a"]


async def test_nothing_of_a_failed_action_exists(start: Start, outside: asyncpg.Connection) -> None:
    app = shop()
    async with start(app, workers=False):
        with pytest.raises(ZeroDivisionError):
            await app.call("everything_then_fail", "a")
        assert await left_over(outside) == {}
        assert await notes(outside) == []


async def test_a_cancelled_action_leaves_nothing(start: Start, outside: asyncpg.Connection) -> None:
    app = shop()
    written = asyncio.Event()

    @app.action
    async def hang(ctx: Ctx) -> None:
        await app.registry.action("everything")(ctx, "a")
        written.set()
        await asyncio.Event().wait()

    async with start(app, workers=False):
        call = asyncio.create_task(app.call("hang"))
        await asyncio.wait_for(written.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await left_over(outside) == {}
        await app.call("everything", "b")
        assert await notes(outside) == ["b"]


async def test_what_follows_a_commit_follows_it_also_when_the_caller_is_cancelled_meanwhile(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = shop()
    followed: list[str] = []
    calls: list[asyncio.Task[Any]] = []

    @app.action
    async def write(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('write', $1)", note)
        ctx.on_commit(lambda: followed.append(note))

    def cancel(sql: str) -> None:
        if sql == "commit" and calls:
            calls.pop().cancel()

    async with start(app, workers=False) as runtime:
        listen_to_handlers(runtime, Ear(before=cancel))
        call = asyncio.create_task(app.call(write, "a"))
        calls.append(call)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await notes(outside) == ["a"]
        assert followed == ["a"]


async def test_nothing_follows_a_commit_that_was_lost_and_cancelled(start: Start, outside: asyncpg.Connection) -> None:
    app = shop()
    followed: list[str] = []
    calls: list[asyncio.Task[Any]] = []

    @app.action
    async def write(ctx: Ctx, note: str) -> None:
        await ctx.db.execute("insert into ledger values ('write', $1)", note)
        ctx.on_commit(lambda: followed.append(note))

    def cancel_and_lose(sql: str) -> None:
        if sql == "commit" and calls:
            calls.pop().cancel()
            raise ConnectionResetError

    async with start(app, workers=False) as runtime:
        listen_to_handlers(runtime, Ear(before=cancel_and_lose))
        call = asyncio.create_task(app.call(write, "a"))
        calls.append(call)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await notes(outside) == []
        assert followed == []


async def test_a_handler_that_touches_no_database_opens_no_transaction(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shop")

    @app.action
    async def think(ctx: Ctx) -> int:
        return 42

    async with start(app, workers=False) as runtime:
        ear = listen_to_handlers(runtime, Ear())
        assert await app.call("think") == 42
        assert ear.heard == []


async def test_a_caught_failure_of_a_nested_action_takes_back_all_it_did(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = shop()
    called: list[str] = []

    @app.action
    async def inner(ctx: Ctx) -> None:
        await app.registry.action("everything")(ctx, "inner")
        ctx.on_commit(lambda: called.append("inner"))
        raise ZeroDivisionError

    @app.action
    async def outer(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('outer', 'before')")
        ctx.on_commit(lambda: called.append("outer"))
        with pytest.raises(ZeroDivisionError):
            await inner(ctx)
        await ctx.db.execute("insert into ledger values ('outer', 'after')")

    async with start(app, workers=False):
        await app.call(outer)
        assert await left_over(outside) == {}
        assert await notes(outside) == ["before", "after"]
        assert called == ["outer"]


async def test_a_nested_action_that_caught_a_database_error_is_taken_back_alone(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shop")

    @app.action
    async def careless(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('careless', 'lost')")
        with pytest.raises(DatabaseError):
            await ctx.db.execute("select 1 / 0")

    @app.action
    async def outer(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('outer', 'before')")
        with pytest.raises(QueryError):
            await careless(ctx)
        await ctx.db.execute("insert into ledger values ('outer', 'after')")

    async with start(app, workers=False):
        await app.call(outer)
        assert await notes(outside) == ["before", "after"]


async def test_savepoints_nest(start: Start, outside: asyncpg.Connection) -> None:
    app = App("shop")

    @app.action
    async def outer(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('1', 'kept')")
        async with ctx.savepoint() as second:
            await second.db.execute("insert into ledger values ('2', 'kept too')")
            with pytest.raises(ZeroDivisionError):
                async with second.savepoint() as third:
                    await third.db.execute("insert into ledger values ('3', 'lost')")
                    raise ZeroDivisionError
            await second.db.execute("insert into ledger values ('2', 'kept last')")

    async with start(app, workers=False):
        await app.call(outer)
        assert await notes(outside) == ["kept", "kept too", "kept last"]


async def test_concurrent_nested_actions_take_turns_and_fail_alone(start: Start, outside: asyncpg.Connection) -> None:
    app = App("shop")

    @app.action
    async def write(ctx: Ctx, n: int) -> int:
        await ctx.db.execute("insert into ledger values ('write', $1)", f"{n} first")
        if n % 3 == 0:
            raise ZeroDivisionError
        await ctx.db.execute("insert into ledger values ('write', $1)", f"{n} second")
        return n

    @app.action
    async def outer(ctx: Ctx) -> list[Any]:
        return await asyncio.gather(*(write(ctx, n) for n in range(10)), return_exceptions=True)

    async with start(app, workers=False):
        results = await app.call(outer)
        assert [n for n, result in enumerate(results) if result == n] == [1, 2, 4, 5, 7, 8]
        assert sorted(await notes(outside)) == sorted(
            f"{n} {part}" for n in (1, 2, 4, 5, 7, 8) for part in ("first", "second")
        )


async def test_half_a_nested_action_never_commits(start: Start, outside: asyncpg.Connection) -> None:
    app = App("shop")
    half_done = asyncio.Event()

    @app.action
    async def slow(ctx: Ctx) -> None:
        await ctx.db.execute("insert into ledger values ('slow', 'half')")
        half_done.set()
        await asyncio.Event().wait()

    tasks: list[asyncio.Task[None]] = []

    @app.action
    async def outer(ctx: Ctx) -> None:
        tasks.append(asyncio.create_task(slow(ctx)))
        await half_done.wait()

    async with start(app, workers=False):
        with pytest.raises(UsageError, match="still runs"):
            await app.call(outer)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert await notes(outside) == []


async def test_the_callers_ctx_inside_a_nested_action_is_refused_at_once(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shop")
    outer_ctx: list[Ctx] = []

    @app.action
    async def inner(ctx: Ctx) -> None:
        await outer_ctx[0].db.execute("insert into ledger values ('inner', 'through the wrong ctx')")

    @app.action
    async def outer(ctx: Ctx) -> None:
        outer_ctx.append(ctx)
        await inner(ctx)

    async with start(app, workers=False):
        with pytest.raises(UsageError, match="used the caller's ctx"):
            await asyncio.wait_for(app.call(outer), 5)
        assert await notes(outside) == []


async def test_a_ctx_is_refused_after_its_end(start: Start, outside: asyncpg.Connection) -> None:
    app = App("shop")
    kept: list[Ctx] = []

    @app.action
    async def keep(ctx: Ctx) -> None:
        kept.append(ctx)
        await ctx.db.execute("insert into ledger values ('keep', 'in time')")

    async with start(app, workers=False):
        await app.call(keep)
        with pytest.raises(UsageError, match="has ended"):
            await kept[0].db.execute("insert into ledger values ('keep', 'late')")
        assert await notes(outside) == ["in time"]


@pytest.mark.parametrize("fails", [False, True])
async def test_the_ctx_of_a_nested_action_is_refused_after_its_end(
    start: Start, outside: asyncpg.Connection, fails: bool
) -> None:
    app = App("shop")
    kept: list[Ctx] = []

    @app.action
    async def inner(ctx: Ctx) -> None:
        kept.append(ctx)
        await ctx.db.execute("insert into ledger values ('inner', 'in time')")
        if fails:
            raise ZeroDivisionError

    @app.action
    async def outer(ctx: Ctx) -> None:
        await asyncio.gather(inner(ctx), return_exceptions=True)
        with pytest.raises(UsageError, match="has ended"):
            await kept[0].db.execute("insert into ledger values ('inner', 'late')")

    async with start(app, workers=False):
        await app.call(outer)
        assert await notes(outside) == ([] if fails else ["in time"])


async def test_on_commit_runs_after_the_commit_and_its_errors_harm_nobody(
    start: Start, outside: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop")
    seen: list[list[str]] = []

    async def look() -> None:
        seen.append(await notes(outside))

    def fail() -> None:
        raise ZeroDivisionError

    @app.action
    async def write(ctx: Ctx) -> str:
        ctx.on_commit(fail)
        ctx.on_commit(look)
        await ctx.db.execute("insert into ledger values ('write', 'a')")
        return "done"

    async with start(app, workers=False):
        assert await app.call(write) == "done"
        assert seen == [["a"]]
        assert "on_commit of action 'write'" in caplog.text


async def test_a_sync_action_has_the_same_transaction(start: Start, outside: asyncpg.Connection) -> None:
    app = shop()

    @app.action
    def inner(ctx: SyncCtx, fail: bool) -> None:
        ctx.db.execute("insert into ledger values ('inner', 'inner')")
        ctx.kv.set("inner", 1)
        if fail:
            raise ZeroDivisionError

    @app.action
    def outer(ctx: SyncCtx, fail: bool) -> Any:
        ctx.db.execute("insert into ledger values ('outer', 'outer')")
        with pytest.raises(ZeroDivisionError):
            ctx.call(inner, fail=True)
        ctx.call(inner, fail=False)
        ctx.queue.enqueue(mails, "a")
        ctx.pubsub.publish(placed, "a")
        ctx.workflow.start("checkout", "a", id="a")
        if fail:
            raise ZeroDivisionError
        return ctx.kv.get("inner")

    async with start(app, workers=False):
        with pytest.raises(ZeroDivisionError):
            await app.call(outer, fail=True)
        assert await left_over(outside) == {}
        assert await notes(outside) == []
        assert await app.call(outer, fail=False) == 1
        assert await left_over(outside) == {"job": 3, "event": 1, "run": 1, "kv": 1}
        assert await notes(outside) == ["outer", "inner"]
