"""Locks: one holder at a time, fences that grow, and transactions that commit only while they hold them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, SyncCtx, action
from chimpbase.errors import Conflict, LockLost, PayloadError, UsageError
from tests.running import Start
from tests.waiting import until

pytestmark = pytest.mark.anyio

TAKEN = "update chimpbase.kv set version = nextval('chimpbase.kv_version') where namespace = '(lock)'"


async def test_one_holds_a_lock_at_a_time_and_fences_grow(start: Start) -> None:
    app = App("locks")
    fences = list[int]()
    inside = 0

    async def work() -> None:
        nonlocal inside
        async with app.ctx.kv.lock("nightly") as lock:
            inside += 1
            assert inside == 1
            await app.ctx.kv.get("anything")
            fences.append(lock.fence)
            inside -= 1

    async with start(app, workers=False):
        await asyncio.gather(*(work() for _ in range(8)))
    assert len(fences) == 8
    assert fences == sorted(set(fences))


async def test_who_does_not_want_to_wait_is_told(start: Start) -> None:
    app = App("locks")
    async with start(app, workers=False):
        async with app.ctx.kv.lock("a"):
            with pytest.raises(Conflict, match="'a' is held"):
                async with app.ctx.kv.lock("a", wait=0):
                    pass
            with pytest.raises(Conflict):
                async with app.ctx.kv.lock("a", wait=timedelta(milliseconds=50)):
                    pass
            async with app.ctx.kv.lock("b", wait=0), app.ctx.kv("other").lock("a", wait=0):
                pass
        async with app.ctx.kv.lock("a", wait=0):
            pass


async def test_a_lock_is_renewed_while_it_is_held(start: Start, outside: asyncpg.Connection) -> None:
    app = App("locks")
    async with start(app, workers=False):
        async with app.ctx.kv.lock("a", ttl=0.3):
            first = await outside.fetchval("select expires_at from chimpbase.kv")

            async def renewed() -> bool:
                question = "select expires_at > $1::timestamptz + interval '300 ms' from chimpbase.kv"
                return bool(await outside.fetchval(question, first))

            await until(renewed)
        await until(lambda: outside.fetchval("select expires_at <= now() from chimpbase.kv"))


async def test_losing_a_lock_ends_its_block(start: Start, outside: asyncpg.Connection) -> None:
    app = App("locks")
    async with start(app, workers=False):
        seen = list[bool]()
        with pytest.raises(LockLost, match="'a' was lost"):
            async with app.ctx.kv.lock("a", ttl=0.2) as lock:
                await outside.execute(TAKEN)
                try:
                    await asyncio.Event().wait()
                finally:
                    seen.append(lock.lost)
        assert seen == [True]
        assert await outside.fetchval("select expires_at > now() - interval '1 s' from chimpbase.kv")


async def test_a_lock_whose_holder_died_is_free_after_its_time(start: Start, outside: asyncpg.Connection) -> None:
    app = App("locks")
    async with start(app, workers=False):
        async with app.ctx.kv.lock("a", ttl=5) as first:
            # as if its holder could not renew it any more
            await outside.execute("update chimpbase.kv set expires_at = now()")
            async with app.ctx.kv.lock("a", wait=1) as second:
                assert second.fence > first.fence


async def test_a_transaction_holds_its_lock_until_it_has_committed(start: Start, outside: asyncpg.Connection) -> None:
    app = App("locks")
    async with start(app, workers=False):
        async with app.transaction() as ctx:
            async with ctx.kv.lock("a") as lock:
                await ctx.db.execute("insert into ledger (note) values ('one')")
            with pytest.raises(Conflict):
                async with app.ctx.kv.lock("a", wait=0):
                    pass
            async with ctx.kv.lock("a", wait=0) as again:
                assert again.fence == lock.fence
        async with app.ctx.kv.lock("a", wait=0):
            assert await outside.fetchval("select count(*) from ledger") == 1


async def test_a_transaction_that_lost_its_lock_does_not_commit(start: Start, outside: asyncpg.Connection) -> None:
    app = App("locks")
    async with start(app, workers=False):
        with pytest.raises(LockLost):
            async with app.transaction() as ctx:
                async with ctx.kv.lock("a", ttl=60):
                    await ctx.db.execute("insert into ledger (note) values ('one')")
                    await outside.execute(TAKEN)
        assert await outside.fetchval("select count(*) from ledger") == 0


async def test_a_failed_transaction_lets_go_of_its_lock(start: Start) -> None:
    app = App("locks")
    async with start(app, workers=False):
        with pytest.raises(ZeroDivisionError):
            async with app.transaction() as ctx:
                async with ctx.kv.lock("a"):
                    raise ZeroDivisionError
        async with app.ctx.kv.lock("a", wait=0):
            pass


async def test_a_plain_function_holds_a_lock_with_a_block(start: Start) -> None:
    @action
    def work(ctx: SyncCtx) -> int:
        with ctx.kv.lock("a", wait=0) as lock:
            lock.check()
            ctx.kv.set("k", 1)
            return lock.fence

    @action
    async def outer(ctx: Ctx) -> list[int]:
        return [await work(ctx), await work(ctx)]

    app = App("locks", register=[work, outer])
    async with start(app, workers=False):
        first, second = await app.call(outer)
        assert first == second, "one transaction takes a lock once"
        assert await app.call(work) > first


async def test_what_cannot_be_a_lock_is_refused(start: Start, outside: asyncpg.Connection) -> None:
    app = App("locks")
    async with start(app, workers=False):
        with pytest.raises(PayloadError):
            app.ctx.kv.lock("")
        for ttl in (0, -1, float("nan"), True):
            with pytest.raises(UsageError):
                app.ctx.kv.lock("a", ttl=ttl)
        async with outside.transaction():
            with pytest.raises(UsageError, match="app.ctx.kv.lock"):
                app.bind(outside).kv.lock("a")
