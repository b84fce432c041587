"""Keys: values, times to live, and the transaction they belong to."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from chimpbase import App
from chimpbase.errors import PayloadError
from chimpbase.testing import rehearse
from tests.running import Start

pytestmark = pytest.mark.anyio


async def test_a_key_holds_its_last_value_and_can_be_deleted(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        assert await kv.get("k") is None
        assert await kv.get("k", "nothing") == "nothing"
        await kv.set("k", {"a": [1, None, "x"]})
        await kv.set("k", {"a": [2]})
        assert await kv.get("k") == {"a": [2]}
        assert await kv.delete("k") is True
        assert await kv.delete("k") is False


async def test_an_expired_key_is_absent_at_once_though_nothing_swept_it(dsn: str, outside: asyncpg.Connection) -> None:
    app = App("kv")
    async with rehearse(app, database_url=dsn) as t:
        async with t.transaction() as ctx:
            await ctx.kv.set("short", 1, ttl=timedelta(minutes=1))
            await ctx.kv.set("renewed", 1, ttl=timedelta(minutes=1))
            await ctx.kv.set("renewed", 2)
        await t.advance(timedelta(seconds=59))
        async with t.transaction() as ctx:
            assert await ctx.kv.get("short") == 1
        await t.advance(timedelta(seconds=2))
        async with t.transaction() as ctx:
            assert await ctx.kv.get("short") is None
            assert await ctx.kv.delete("short") is False
            assert await ctx.kv.get("renewed") == 2


async def test_a_set_is_taken_back_with_its_transaction(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        with pytest.raises(ZeroDivisionError):
            async with app.transaction() as ctx:
                await ctx.kv.set("k", 1)
                raise ZeroDivisionError
        assert await app.ctx.kv.get("k") is None


@pytest.mark.parametrize("key", ["", "x" * 513, "a\x00b", "\ud800"])
async def test_what_cannot_be_a_key_is_refused(start: Start, key: str) -> None:
    app = App("kv")
    async with start(app, workers=False):
        with pytest.raises(PayloadError):
            await app.ctx.kv.set(key, 1)
