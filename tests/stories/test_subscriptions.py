"""Subscriptions: patterns, filters, order, replay, and handlers inside the publisher's transaction."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimpbase import App, Ctx, Event, SyncCtx
from chimpbase._core.topics import conditions, holds, matches, regular_expression
from chimpbase.errors import NotFound, UsageError
from tests.running import Start, is_idle, notes
from tests.waiting import until

pytestmark = pytest.mark.anyio

placed, shipped = Event("order.placed", dict[str, Any]), Event("order.shipped.late", dict[str, Any])


def shop(*options: dict[str, Any], topic: str = "order.placed") -> App:
    app = App("shop", register=[placed, shipped])
    for number, option in enumerate(options):

        @app.subscribe(option.pop("topic", topic), name=f"s{number}", **option)
        async def note(ctx: Ctx, event: dict[str, Any]) -> None:
            await ctx.db.execute("insert into ledger values ($1, $2)", ctx.pubsub.topic, str(event["n"]))

    return app


async def published(start: Start, outside: asyncpg.Connection, app: App, *payloads: dict[str, Any]) -> list[str]:
    async with start(app):
        for payload in payloads:
            await app.ctx.pubsub.publish(placed, payload)
        await app.ctx.pubsub.publish(shipped, {"n": 99})
        await until(lambda: is_idle(outside))
    return await notes(outside)


@pytest.mark.parametrize(
    ("topic", "got"),
    [
        ("order.*", ["1"]),
        ("order.#", ["1", "99"]),
        ("#", ["1", "99"]),
        ("*.placed", ["1"]),
        ("order.*.late", ["99"]),
        ("order", []),
        ("*", []),
    ],
)
async def test_a_pattern_is_matched_word_by_word(
    start: Start, outside: asyncpg.Connection, topic: str, got: list[str]
) -> None:
    assert sorted(await published(start, outside, shop({}, topic=topic), {"n": 1})) == got


@pytest.mark.parametrize("topic", ["order.#.late", "or*er", "order.**", "a b.*", "", "*." * 80, "order.#x"])
def test_what_is_no_pattern_is_refused(topic: str) -> None:
    with pytest.raises(UsageError):
        shop({}, topic=topic)


async def test_a_pattern_cannot_be_published(start: Start) -> None:
    app = shop({}, topic="order.*")
    async with start(app):
        with pytest.raises(UsageError):
            await app.ctx.pubsub.publish("order.*", {"n": 1})


async def test_a_filter_is_judged_when_the_event_is_published(start: Start, outside: asyncpg.Connection) -> None:
    app = shop({"where": {"total": {"gte": 100, "lt": 200}, "who.land": {"in": ["PT", "ES"]}}})
    got = await published(
        start,
        outside,
        app,
        {"n": 1, "total": 100, "who": {"land": "PT"}},
        {"n": 2, "total": 200, "who": {"land": "PT"}},
        {"n": 3, "total": 150, "who": {"land": "DE"}},
        {"n": 4, "total": "150", "who": {"land": "PT"}},
        {"n": 5, "who": {"land": "PT"}},
    )
    assert got == ["1"]
    assert await outside.fetchval("select count(*) from chimpbase.job_done") == 1  # the others were never jobs


@pytest.mark.parametrize(
    "where",
    [
        {"a": {"like": "%"}},
        {"a": {}},
        {"": 1},
        {"a..b": 1},
        {1: 1},
        {"a": {"gt": True}},
        {"a": {"in": "abc"}},
        {"a": {"exists": 1}},
        {"a": float("nan")},
        {"a": "\ud800"},
        {"a": "\0"},
        [],
    ],
)
def test_what_is_no_filter_is_refused(where: Any) -> None:
    with pytest.raises(UsageError):
        shop({"where": where})


@pytest.mark.parametrize("wrong", [{"ordered_by": ""}, {"ordered_by": 7}, {"start": "soon"}, {"dispatch": "sync"}])
def test_what_a_subscription_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        shop(wrong)


async def test_events_of_one_key_are_handled_in_their_order(start: Start, outside: asyncpg.Connection) -> None:
    payloads = [{"n": n, "who": n % 3} for n in range(30)]
    got = await published(start, outside, shop({"ordered_by": "who"}), *payloads)
    for who in range(3):
        mine = [int(n) for n in got if int(n) % 3 == who and n != "99"]
        assert mine == sorted(mine)
    assert len(got) == 30


async def test_a_new_subscription_may_begin_with_what_is_stored(start: Start, outside: asyncpg.Connection) -> None:
    assert await published(start, outside, shop(), {"n": 1}) == []
    await outside.execute("update chimpbase.event set published_at = '2020-01-01Z'")
    later = datetime(2021, 1, 1, tzinfo=UTC)

    def with_all() -> App:
        return shop({"start": "beginning"}, {"start": later, "topic": "order.#"}, {"start": "now"})

    # the first gets both; the second what is new, the late one too; the third what is new
    first = sorted(await published(start, outside, with_all(), {"n": 2}))
    assert first == ["1", "2", "2", "2", "99"]
    # and only once: none of them is new any more
    assert sorted(await published(start, outside, with_all())) == [*first, "99"]


async def test_stored_events_are_replayed_to_one_subscription(start: Start, outside: asyncpg.Connection) -> None:
    app = shop({}, {})
    async with start(app):
        await app.ctx.pubsub.publish(placed, {"n": 1})
        await app.ctx.pubsub.publish(placed, {"n": 2})
        await until(lambda: is_idle(outside))
        assert await app.ctx.pubsub.replay("s1") == 2
        assert await app.ctx.pubsub.replay("s1", since=datetime(2999, 1, 1, tzinfo=UTC)) == 0
        await until(lambda: is_idle(outside))
        assert sorted(await notes(outside)) == ["1", "1", "1", "2", "2", "2"]
        with pytest.raises(NotFound):
            await app.ctx.pubsub.replay("nobody")
        with pytest.raises(UsageError):
            await app.ctx.pubsub.replay("s1", since=datetime(2026, 1, 1))


async def test_an_inline_subscription_is_a_part_of_the_publishers_transaction(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("shop", register=[placed])

    @app.subscribe(placed, dispatch="inline", where={"n": {"ne": 0}})
    async def count(ctx: Ctx, event: dict[str, Any]) -> None:
        await ctx.db.execute("insert into ledger values ($1, $2)", ctx.pubsub.topic, str(event["n"]))
        if event["n"] < 0:
            raise ValueError("negative")

    @app.subscribe("order.*", dispatch="inline")
    def plain(ctx: SyncCtx, event: dict[str, Any]) -> None:
        ctx.db.execute("insert into ledger values ('plain', $1)", str(event["n"]))

    @app.action
    async def place(ctx: Ctx, n: int) -> int:
        await ctx.pubsub.publish(placed, {"n": n})
        return await ctx.db.fetch_value("select count(*) from ledger")

    async with start(app):
        assert await app.call("place", 1) == 2
        assert await app.call("place", 0) == 3
        with pytest.raises(ValueError, match="negative"):
            await app.call("place", -1)
        await app.ctx.pubsub.publish(placed, {"n": 5})
    assert await notes(outside) == ["1", "1", "0", "5", "5"]
    assert await outside.fetchval("select count(*) from chimpbase.event") == 3


async def test_old_events_are_pruned(start: Start, outside: asyncpg.Connection) -> None:
    app = shop()
    async with start(app):
        await app.ctx.pubsub.publish(placed, {"n": 1})
        await outside.execute("update chimpbase.event set published_at = '2020-01-01Z'")
    async with start(app, event_retention=timedelta(days=1)):
        await app.ctx.pubsub.publish(placed, {"n": 2})
        await until(lambda: outside.fetchval("select count(*) = 1 from chimpbase.event"))


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, -1.5]), st.text("ab", max_size=2)
)
_RULES = st.one_of(
    st.tuples(st.sampled_from(["eq", "ne"]), _VALUES),
    st.tuples(st.sampled_from(["gt", "gte", "lt", "lte"]), st.one_of(st.integers(-3, 3), st.text("ab", max_size=2))),
    st.tuples(st.just("in"), st.lists(_VALUES, max_size=3)),
    st.tuples(st.just("exists"), st.booleans()),
)
_PAYLOADS = st.dictionaries(st.sampled_from("xy"), st.one_of(_VALUES, st.dictionaries(st.just("z"), _VALUES)))


async def test_postgresql_judges_filters_as_python_does(start: Start, outside: asyncpg.Connection) -> None:
    cases: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []

    @given(_PAYLOADS, st.dictionaries(st.sampled_from(["x", "y", "x.z"]), _RULES, max_size=3))
    def collect(payload: dict[str, Any], rules: dict[str, tuple[str, Any]]) -> None:
        cases.append((payload, conditions({field: {rule[0]: rule[1]} for field, rule in rules.items()})))

    collect()
    async with start(shop()):
        for payload, asked in cases:
            answer = await outside.fetchval(
                "select chimpbase.meets($1::text::jsonb, $2::text::jsonb)", json.dumps(payload), json.dumps(asked)
            )
            assert answer == holds(payload, asked), (payload, asked)
        for topic in ("a", "a.b", "a.b.c", "a-b.c"):
            for pattern in ("#", "*", "a.*", "a.#", "*.b", "a.*.c", "a-b.*"):
                same = await outside.fetchval("select $1::text ~ $2::text", topic, regular_expression(pattern))
                assert same == matches(topic, pattern), (topic, pattern)
