"""Keys: values, times to live, versions, and the transaction they belong to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import KV, App
from chimpbase.errors import AlreadyRegistered, PayloadError, UsageError
from chimpbase.testing import rehearse
from tests.running import Start

pytestmark = pytest.mark.anyio


@dataclass
class Quote:
    price: float


quotes = KV("quotes", Quote, ttl=timedelta(minutes=5))
hits = KV("hits", int, cache=True)


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
            assert await ctx.kv.entry("short") is None
            assert await ctx.kv.list() == ["renewed"]
            assert await ctx.kv.get_many(["short", "renewed"]) == {"renewed": 2}
            assert await ctx.kv.incr("short", 5) == 5
            assert await ctx.kv.delete("short") is True
            assert await ctx.kv.get("renewed") == 2


async def test_an_expired_key_cannot_be_deleted_or_swapped_and_counts_as_absent(dsn: str) -> None:
    async with rehearse(App("kv"), database_url=dsn) as t:
        async with t.transaction() as ctx:
            version = await ctx.kv.set("k", 1, ttl=1)
            await ctx.kv.set("gone", 1, ttl=1)
        await t.advance(timedelta(seconds=2))
        async with t.transaction() as ctx:
            assert await ctx.kv.set("k", 2, if_version=version) is None
            assert await ctx.kv.set("k", 3, if_absent=True) is not None
            assert await ctx.kv.delete("gone") is False


async def test_a_set_is_taken_back_with_its_transaction(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        with pytest.raises(ZeroDivisionError):
            async with app.transaction() as ctx:
                await ctx.kv.set("k", 1)
                assert await ctx.kv.get("k") == 1
                raise ZeroDivisionError
        assert await app.ctx.kv.get("k") is None


@pytest.mark.parametrize("key", ["", "x" * 513, "a\x00b", "\ud800", 5, None, b"k"])
async def test_what_cannot_be_a_key_is_refused_by_every_verb(start: Start, key: Any) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        for refused in (
            lambda: kv.set(key, 1),
            lambda: kv.get(key, 1),
            lambda: kv.entry(key),
            lambda: kv.delete(key),
            lambda: kv.incr(key),
            lambda: kv.get_many([key]),
            lambda: kv.set_many({key: 1}),
            lambda: kv.allow(key, limit=1),
        ):
            with pytest.raises(PayloadError):
                await refused()


async def test_what_cannot_be_an_argument_is_refused(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        wrong: list[Any] = [
            lambda: kv.set("k", 1, ttl=0),
            lambda: kv.set("k", 1, ttl=-1),
            lambda: kv.set("k", 1, ttl=float("nan")),
            lambda: kv.set("k", 1, ttl=True),
            lambda: kv.set("k", float("inf")),
            lambda: kv.set("k", 2**63),
            lambda: kv.set("k", "\x00"),
            lambda: kv.set("k", 1, if_version="1"),  # type: ignore[call-overload]
            lambda: kv.set("k", 1, if_version=-1),
            lambda: kv.set("k", 1, if_version=1, if_absent=True),
            lambda: kv.incr("k", 2**63),
            lambda: kv.incr("k", True),
            lambda: kv.incr("k", 1.5),  # type: ignore[arg-type]
            lambda: kv.list(limit=0),
            lambda: kv.list(limit=True),
            lambda: kv.list(limit=10**9),
            lambda: kv.list("a\x00"),
            lambda: kv.list(after="\ud800"),
            lambda: kv.get_many("k"),
            lambda: kv.get_many([f"{n}" for n in range(10_001)]),
            lambda: kv.delete("k", if_version=2**64),
            lambda: kv.allow("k", limit=0),
            lambda: kv.allow("k", limit=1, cost=2),
            lambda: kv.allow("k", limit=1, per=0),
        ]
        for place, call in enumerate(wrong):
            with pytest.raises(UsageError):
                raise AssertionError(f"{place} was taken: {await call()}")
        for name in ("", "a b", "a" * 129, 5):
            with pytest.raises(UsageError):
                kv(name)  # type: ignore[call-overload]
        assert await kv.list() == []


async def test_namespaces_are_typed_and_do_not_see_each_other(start: Start) -> None:
    app = App("kv", register=[quotes, hits])
    async with start(app, workers=False):
        kv = app.ctx.kv
        await kv(quotes).set("tea", Quote(1.5))
        await kv.set("tea", "plain")
        await kv(hits).set("tea", 3)
        assert await kv(quotes).get("tea") == Quote(1.5)
        assert await kv("quotes").get("tea") == Quote(1.5)
        assert await kv("hits").get("tea") == 3
        assert await kv("other").get("tea") is None
        assert await kv.get("tea") == "plain"
        await kv("quotes").set("oil", {"price": 2})
        assert await kv(quotes).get("oil") == Quote(2)
        for wrong in ({"price": "dear"}, 5):
            with pytest.raises(PayloadError):
                await kv("quotes").set("oil", wrong)
        assert [entry.key for entry in await kv(quotes).entries()] == ["oil", "tea"]


async def test_two_tokens_of_one_namespace_must_agree(start: Start) -> None:
    with pytest.raises(AlreadyRegistered, match="namespace 'hits'"):
        App("kv", register=[hits, KV("hits", int)])


async def test_the_time_to_live_of_a_namespace_holds_for_sets_without_one(dsn: str) -> None:
    async with rehearse(App("kv"), database_url=dsn) as t:
        async with t.transaction() as ctx:
            await ctx.kv(quotes).set("tea", Quote(1))
            await ctx.kv(quotes).set_many({"oil": Quote(1)})
            await ctx.kv(quotes).set("salt", Quote(1), ttl=timedelta(hours=1))
        await t.advance(timedelta(minutes=6))
        async with t.transaction() as ctx:
            assert await ctx.kv(quotes).list() == ["salt"]


async def test_a_set_if_absent_or_of_a_version_happens_once(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        assert await kv.set("k", 1, if_version=1) is None
        first = await kv.set("k", 1, if_absent=True)
        assert first is not None
        assert await kv.set("k", 2, if_absent=True) is None
        second = await kv.set("k", 2, if_version=first)
        assert second is not None
        assert second > first
        assert await kv.set("k", 3, if_version=first) is None
        entry = await kv.entry("k")
        assert entry is not None
        assert (entry.value, entry.version, entry.expires_at) == (2, second, None)
        assert await kv.delete("k", if_version=first) is False
        assert await kv.delete("k", if_version=second) is True
        third = await kv.set("k", 1)
        assert third not in (first, second), "a version came again after the key was deleted"


async def test_of_many_who_swap_one_version_one_does(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        version = await kv.set("k", 0)
        won = await asyncio.gather(*(kv.set("k", n, if_version=version) for n in range(20)))
        assert sum(one is not None for one in won) == 1
        added = await asyncio.gather(*(kv.set("new", n, if_absent=True) for n in range(20)))
        assert sum(one is not None for one in added) == 1


async def test_increments_of_many_all_count(start: Start) -> None:
    app = App("kv", register=[hits])
    async with start(app, workers=False):
        sums = await asyncio.gather(*(app.ctx.kv(hits).incr("page") for _ in range(50)))
        assert sorted(sums) == list(range(1, 51))
        assert await app.ctx.kv(hits).incr("page", -60) == -10
        assert await app.ctx.kv(hits).get("page") == -10


async def test_an_increment_keeps_the_time_to_live_it_found(dsn: str) -> None:
    async with rehearse(App("kv"), database_url=dsn) as t:
        async with t.transaction() as ctx:
            await ctx.kv.incr("window", ttl=60)
        await t.advance(timedelta(seconds=40))
        async with t.transaction() as ctx:
            assert await ctx.kv.incr("window", ttl=60) == 2
        await t.advance(timedelta(seconds=40))
        async with t.transaction() as ctx:
            assert await ctx.kv.incr("window", ttl=60) == 1


@pytest.mark.parametrize("value", ["text", 1.5, None, [1], True, 2**63 - 1])
async def test_what_is_no_whole_number_within_64_bits_is_not_incremented(start: Start, value: Any) -> None:
    app = App("kv")
    async with start(app, workers=False):
        await app.ctx.kv.set("k", value)
        async with app.transaction() as ctx:
            with pytest.raises(PayloadError, match="key 'k'"):
                await ctx.kv.incr("k")
            assert await ctx.kv.get("k") == value, "the refusal ended the transaction"


async def test_a_prefix_is_taken_literally(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        keys = ["a_1", "axb", "a%", "a%b", "a\\b", "a", "b", "é", "z\U0010ffff", "z\U0010ffffz", "\ud7ff", "\ue000"]
        await kv.set_many(dict.fromkeys(keys, 1))
        assert await kv.list("a_") == ["a_1"]
        assert await kv.list("a%") == ["a%", "a%b"]
        assert await kv.list("a\\") == ["a\\b"]
        assert await kv.list("z\U0010ffff") == ["z\U0010ffff", "z\U0010ffffz"]
        assert await kv.list("\ud7ff") == ["\ud7ff"]
        assert await kv.list() == sorted(keys)
        assert await kv.clear("a_") == 1
        assert await kv.clear() == len(keys) - 1


async def test_pages_of_a_listing_follow_each_other(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        await kv.set_many({f"user:{n:03}": n for n in range(25)})
        await kv.set("zebra", 1)
        seen, after = list[int](), ""
        while page := await kv.entries("user:", after=after, limit=10):
            seen += [entry.value for entry in page]
            after = page[-1].key
        assert seen == list(range(25))


async def test_a_batch_writes_what_was_asked_for_last(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        kv = app.ctx.kv
        versions = await asyncio.gather(*(kv.set(f"k{n % 3}", n) for n in range(60)))
        assert len(set(versions)) == 60, "two sets were given one version"
        assert [await kv.get(f"k{n}") for n in range(3)] == [57, 58, 59]
        entry = await kv.entry("k2")
        assert entry is not None
        assert entry.version == versions[59]
        # a version that was overwritten in the same batch is nobody's
        assert await kv.set("k2", "stale", if_version=versions[56]) is None


async def test_a_long_value_and_a_short_one_are_set_at_once(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        long = "x" * 100_000
        await asyncio.gather(app.ctx.kv.set("long", long), app.ctx.kv.set("short", 1))
        assert await app.ctx.kv.get_many(["long", "short"]) == {"long": long, "short": 1}


async def test_a_cached_namespace_is_unlogged_and_a_durable_one_is_not(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("kv", register=[hits, quotes])
    async with start(app, workers=False):
        await app.ctx.kv(hits).set("a", 1)
        await app.ctx.kv(quotes).set("a", Quote(1))
        rows = await outside.fetch(
            "select namespace, relpersistence::text from chimpbase.kv join pg_class on pg_class.oid = kv.tableoid"
        )
        assert {tuple(row) for row in rows} == {("hits", "u"), ("quotes", "p")}


async def test_an_allowance_is_spent_and_comes_back_evenly(dsn: str) -> None:
    async with rehearse(App("kv"), database_url=dsn) as t:
        async with t.transaction() as ctx:
            answers = [await ctx.kv.allow("ada", limit=3, per=60) for _ in range(5)]
            assert [bool(one) for one in answers] == [True, True, True, False, False]
            assert [one.remaining for one in answers] == [2, 1, 0, 0, 0]
            assert timedelta(seconds=19) < answers[-1].retry_after <= timedelta(seconds=20)
            assert await ctx.kv.allow("bob", limit=3, per=60)
            assert await ctx.kv.list() == []
        await t.advance(timedelta(seconds=20))
        async with t.transaction() as ctx:
            assert await ctx.kv.allow("ada", limit=3, per=60)
            assert not await ctx.kv.allow("ada", limit=3, per=60)
            assert await ctx.kv.allow("cleo", limit=3, per=60, cost=3)
        await t.advance(timedelta(minutes=2))
        async with t.transaction() as ctx:
            assert (await ctx.kv.allow("ada", limit=3, per=60)).remaining == 2


async def test_what_was_spent_stays_spent_when_the_transaction_fails(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        with pytest.raises(ZeroDivisionError):
            async with app.transaction() as ctx:
                assert await ctx.kv.allow("login", limit=1, per=60)
                raise ZeroDivisionError
        assert not await app.ctx.kv.allow("login", limit=1, per=60)


async def test_of_many_at_once_no_more_are_allowed_than_the_limit(start: Start) -> None:
    app = App("kv")
    async with start(app, workers=False):
        answers = await asyncio.gather(*(app.ctx.kv.allow("k", limit=7, per=3600) for _ in range(30)))
        assert sum(map(bool, answers)) == 7
