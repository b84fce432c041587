"""Streams: appended in the transaction, read by position, and refused where nothing good could come of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Ctx, Stream, SyncCtx
from chimpbase.errors import EntriesDropped, PayloadError, QueryError, UsageError, WrongVersion
from tests.running import Start

pytestmark = pytest.mark.anyio


@dataclass
class Line:
    n: int


audit = Stream("audit", Line)


async def test_entries_are_read_in_order_typed_and_from_any_position(start: Start) -> None:
    app = App("log", register=[audit])
    async with start(app):
        ids = await app.ctx.stream.append_many(audit, [Line(n) for n in range(5)], key=lambda line: f"k{line.n % 2}")
        assert ids == sorted(ids)
        assert type(await app.ctx.stream.append("audit", {"n": 5})) is int
        entries = await app.ctx.stream.read(audit)
        assert [entry.payload for entry in entries] == [Line(n) for n in range(6)]
        assert [entry.key for entry in entries[:2]] == ["k0", "k1"]
        assert entries[0].stream == "audit"
        assert entries[0].trace_id
        for place, entry in enumerate(entries):
            rest = await app.ctx.stream.read("audit", after=entry.position)
            assert [one.payload.n for one in rest] == list(range(place + 1, 6))
        pages: list[int] = []
        after: str | None = None
        while page := await app.ctx.stream.read(audit, after=after, limit=4):
            pages += [entry.payload.n for entry in page]
            after = page[-1].position
        assert pages == list(range(6))


async def test_the_latest_entries_are_read_backward(start: Start) -> None:
    app = App("log", register=[audit])
    async with start(app):
        await app.ctx.stream.append_many(audit, [Line(n) for n in range(5)])
        last = await app.ctx.stream.read(audit, backward=True, limit=2)
        assert [entry.payload.n for entry in last] == [4, 3]
        before = await app.ctx.stream.read(audit, backward=True, limit=9, after=last[-1].position)
        assert [entry.payload.n for entry in before] == [2, 1, 0]


async def test_a_read_since_an_instant_leaves_out_what_was_before(start: Start, outside: asyncpg.Connection) -> None:
    app = App("log", register=[audit])
    async with start(app):
        await app.ctx.stream.append_many(audit, [Line(n) for n in range(3)])
        await outside.execute("update chimpbase.entry set appended_at = '2020-01-01Z'")
        await app.ctx.stream.append_many(audit, [Line(n) for n in range(3, 6)])
        read = await app.ctx.stream.read(audit, since=datetime(2021, 1, 1, tzinfo=UTC), limit=2)
        assert [entry.payload.n for entry in read] == [3, 4]
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit, after=read[-1].position)] == [5]


async def test_an_append_exists_if_and_only_if_its_transaction_commits(start: Start) -> None:
    app = App("log", register=[audit])
    async with start(app):
        with pytest.raises(ValueError, match="no"):
            async with app.transaction() as ctx:
                await ctx.stream.append(audit, Line(1))
                raise ValueError("no")
        async with app.transaction() as ctx:
            await ctx.stream.append(audit, Line(2))
            # not before it has a place in the order; and a position taken here does not go past it
            assert await ctx.stream.read(audit) == []
            await app.ctx.stream.append(audit, Line(3))
            (other,) = await ctx.stream.read(audit)
            here = await ctx.stream.position(audit)
        assert other.payload == Line(3)
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit, after=other.position)] == [2]
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit, after=here)] == [2]


async def test_only_one_of_two_who_decided_on_the_same_version_appends(start: Start) -> None:
    app = App("log")
    async with start(app):
        order = "order-1"
        await app.ctx.stream.append(order, "placed", expected_version=0)
        async with app.transaction() as ctx:
            assert await ctx.stream.version(order) == 1
            with pytest.raises(WrongVersion) as caught:
                await ctx.stream.append(order, "paid", expected_version=0)
            assert (caught.value.expected, caught.value.found) == (0, 1)
            await ctx.stream.append_many(order, ["paid", "shipped"], expected_version=1)
        await app.ctx.stream.append(order, "seen")  # expects nothing, and counts all the same
        assert [(entry.version, entry.payload) for entry in await app.ctx.stream.read(order)] == [
            (1, "placed"),
            (2, "paid"),
            (3, "shipped"),
            (4, "seen"),
        ]
        await app.ctx.stream.append_many("plain", [1, 2])
        assert await app.ctx.stream.version("plain") == 2
        await app.ctx.stream.append("plain", 3, expected_version=2)
        assert await app.ctx.stream.version("nothing") == 0


async def test_the_verbs_are_there_for_plain_functions_too(start: Start) -> None:
    app = App("log", register=[audit])

    @app.action
    def note(ctx: SyncCtx, n: int) -> list[int]:
        ctx.stream.append(audit, Line(n), key="a")
        ctx.stream.append_many("audit", [Line(n + 1)])
        assert ctx.stream.version(audit) == 2
        assert ctx.stream.position(audit) is not None
        return [entry.payload.n for entry in ctx.stream.read(audit)]

    async with start(app):
        assert await app.call("note", 1) == []
        assert len(await app.ctx.stream.read(audit)) == 2


async def test_plain_sql_appends_with_the_same_meaning(start: Start, outside: asyncpg.Connection) -> None:
    app = App("log", register=[audit])
    async with start(app):
        id = await outside.fetchval("""select chimpbase.append('audit', '{"n": 7}', '{"key": "k"}')""")
        (entry,) = await app.ctx.stream.read(audit)
        assert (entry.id, entry.payload, entry.key) == (id, Line(7), "k")
        with pytest.raises(asyncpg.PostgresError) as caught:
            await outside.execute("""select chimpbase.append('audit', '1', '{"expected_version": 9}')""")
        assert "is at version" in str(caught.value)
        for wrong in ("('audit', '1', '{\"nope\": 1}')", "('', '1')", "(null, '1')", "('a b', '1')"):
            with pytest.raises(asyncpg.PostgresError) as caught:
                await outside.execute(f"select chimpbase.append{wrong}")
            assert any(word in str(caught.value) for word in ("takes", "unknown"))


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        (lambda ctx: ctx.stream.append(audit, {"n": "one"}), PayloadError),
        (lambda ctx: ctx.stream.append_many("audit", [{"n": 1}, {"n": "x"}]), PayloadError),
        (lambda ctx: ctx.stream.append("audit", {"n": 1}, key=""), PayloadError),
        (lambda ctx: ctx.stream.append("audit", {"n": 1}, key="\0"), PayloadError),
        (lambda ctx: ctx.stream.append("audit", {"n": 1}, key="\ud800"), PayloadError),
        (lambda ctx: ctx.stream.append("audit", {"n": 1}, key=7), PayloadError),
        (lambda ctx: ctx.stream.append("audit", {"n": 1}, key="k" * 513), PayloadError),
        (lambda ctx: ctx.stream.append("audit", {"n": 1}, expected_version=True), UsageError),
        (lambda ctx: ctx.stream.append("audit", {"n": 1}, expected_version=-1), UsageError),
        (lambda ctx: ctx.stream.append("a b", 1), UsageError),
        (lambda ctx: ctx.stream.append("\0", 1), UsageError),
        (lambda ctx: ctx.stream.append(7, 1), UsageError),
        (lambda ctx: ctx.stream.append("free", float("nan")), PayloadError),
        (lambda ctx: ctx.stream.read("audit", limit=0), UsageError),
        (lambda ctx: ctx.stream.read("audit", limit=True), UsageError),
        (lambda ctx: ctx.stream.read("audit", limit=10_001), UsageError),
        (lambda ctx: ctx.stream.read("audit", since=datetime(2026, 1, 1)), UsageError),
        (lambda ctx: ctx.stream.read("audit", since="yesterday"), UsageError),
        (lambda ctx: ctx.stream.read("audit", after="nonsense"), PayloadError),
        (lambda ctx: ctx.stream.read("audit", after=7), PayloadError),
        (lambda ctx: ctx.stream.read("audit", after="s1.1..1/9:5:.1/5:9:.0.0"), PayloadError),
        (lambda ctx: ctx.stream.read("audit", after="s1.999...1/5:9:.0.0"), PayloadError),
    ],
)
async def test_what_cannot_be_is_refused_with_a_typed_error(start: Start, verb: Any, error: type[Exception]) -> None:
    app = App("log", register=[audit])
    async with start(app):
        with pytest.raises(error):
            await verb(app.ctx)
        assert await app.ctx.stream.read("audit") == []


@pytest.mark.parametrize("wrong", [{"retention": 5}, {"retention": -1}, {"max_bytes": 0}, {"max_bytes": True}])
def test_a_stream_is_kept_for_a_day_or_more(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Stream("audit", Line, **wrong)


async def test_entries_that_came_from_another_cluster_are_read_and_positions_go_on(
    start: Start, outside: asyncpg.Connection
) -> None:
    app = App("log", register=[audit])
    async with start(app):
        await app.ctx.stream.append_many(audit, [Line(n) for n in range(6)])
        half = (await app.ctx.stream.read(audit, limit=3))[-1].position
        end = (await app.ctx.stream.position(audit)) or ""
    # as after a restore into a new cluster: its transactions begin again, with lower numbers
    await outside.execute("update chimpbase.entry set xid = (xid::text::bigint + 1000000000)::text::xid8")
    await outside.execute("update chimpbase.epoch set system = system + 1")
    async with start(app):
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit)] == list(range(6))
        await app.ctx.stream.append_many(audit, [Line(6), Line(7)])
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit)] == list(range(8))
        assert await outside.fetchval("select max(id) from chimpbase.epoch") == 2
        # positions of before keep their meaning: what the old cluster's snapshot showed has been read
        shifted = _shifted(half), _shifted(end)
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit, after=shifted[0])] == list(range(3, 8))
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit, after=shifted[1])] == [6, 7]


def _shifted(position: str) -> str:
    parts = position.split(".")
    for place in (3, 4):
        if parts[place]:
            epoch, _, snapshot = parts[place].partition("/")
            low, high, running = snapshot.split(":")
            moved = [str(int(one) + 10**9) for one in (low, high)]
            inside = ",".join(str(int(one) + 10**9) for one in running.split(",") if one)
            parts[place] = f"{epoch}/{moved[0]}:{moved[1]}:{inside}"
    return ".".join(parts)


async def test_what_retention_drops_is_never_skipped_in_silence(start: Start, outside: asyncpg.Connection) -> None:
    kept = Stream("kept", int, retention=timedelta(days=2))
    app = App("log", register=[kept])
    async with start(app):
        number = await outside.fetchval("select id from chimpbase.stream where name = 'kept'")
        await app.ctx.stream.append_many(kept, [0, 1])
        old = (await app.ctx.stream.read(kept, limit=1))[0].position
        await outside.execute("update chimpbase.entry set appended_at = '2020-01-01 12:00Z'")
        await outside.execute("select chimpbase.create_stream_day($1, '2020-01-01')", number)
        await app.ctx.stream.append(kept, 2)
        new = (await app.ctx.stream.position(kept)) or ""
        await outside.execute("select chimpbase.drop_stream_day($1, '2020-01-01')", number)
        with pytest.raises(EntriesDropped, match="up to id 2"):
            await app.ctx.stream.read(kept, after=old)
        assert [entry.payload for entry in await app.ctx.stream.read(kept)] == [2]
        assert await app.ctx.stream.read(kept, after=new) == []


async def test_a_stream_that_gets_a_retention_keeps_what_it_has(start: Start) -> None:
    async with start(App("log", register=[Stream("later", int)])) as runtime:
        await runtime.ctx.stream.append_many("later", [0, 1])
    async with start(App("log", register=[Stream("later", int, retention=timedelta(days=9))])) as runtime:
        await runtime.ctx.stream.append_many("later", [2, 3])
        assert [entry.payload for entry in await runtime.ctx.stream.read("later", limit=3)] == [0, 1, 2]
    # a process that says nothing of it does not take it back
    async with start(App("log", register=[Stream("later", int)])) as runtime:
        await runtime.ctx.stream.append("later", 4)
        assert [entry.payload for entry in await runtime.ctx.stream.read("later")] == [0, 1, 2, 3, 4]
        assert [one.payload for one in await runtime.ctx.stream.read("later", backward=True)] == [4, 3, 2, 1, 0]


async def test_a_failed_append_leaves_the_transaction_usable(start: Start) -> None:
    app = App("log", register=[audit])

    @app.action
    async def careful(ctx: Ctx) -> int:
        await ctx.stream.append("audit", Line(1))
        with pytest.raises(QueryError):
            async with ctx.savepoint() as inner:
                await inner.stream.append("audit", Line(2))
                await inner.db.execute("select 1 / 0")
        return await ctx.stream.append("audit", Line(3))

    async with start(app):
        await app.call("careful")
        assert [entry.payload.n for entry in await app.ctx.stream.read(audit)] == [1, 3]


async def test_a_bound_ctx_appends_in_the_callers_transaction(start: Start, outside: asyncpg.Connection) -> None:
    app = App("log", register=[audit])
    async with start(app):
        transaction = outside.transaction()
        await transaction.start()
        ctx = app.bind(outside)
        await ctx.stream.append(audit, Line(1))
        with pytest.raises(UsageError, match="cannot follow"):
            ctx.stream.tail(audit)
        await transaction.rollback()
        async with outside.transaction():
            await app.bind(outside).stream.append(audit, Line(2))
        async with outside.transaction():
            assert [entry.payload.n for entry in await app.bind(outside).stream.read(audit)] == [2]
