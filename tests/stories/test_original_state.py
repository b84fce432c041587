"""Cron, KV, collections and streams as the TypeScript Chimpbase has them, and what of its defects must not return."""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg
import pytest

from chimpbase import App, Ctx, Occurrence, Retry
from chimpbase.testing import Rehearsal, rehearse
from tests.running import Start
from tests.waiting import until

pytestmark = pytest.mark.anyio

SLOT = timedelta(minutes=5)


async def next_slot(t: Rehearsal) -> datetime:
    async with t.transaction() as ctx:
        return (await ctx.cron.get("audit")).next_at


async def to(t: Rehearsal, instant: datetime, *, every_occurrence: bool = True) -> None:
    await t.advance(instant - await t.now(), every_occurrence=every_occurrence)


async def two_past(t: Rehearsal, dues: list[datetime]) -> datetime:
    """As it is at 10:02, with nothing of before remembered; no slot is near while a test looks. Answers 10:05."""
    slot = await next_slot(t)
    await to(t, slot + timedelta(minutes=2))
    dues.clear()
    return slot + SLOT


async def test_a_schedule_fires_at_its_slot_and_not_before() -> None:
    app, dues = App("audit"), list[datetime]()

    @app.cron("*/5 * * * *")
    async def audit(ctx: Ctx, due: Occurrence) -> None:
        dues.append(due.due_at)

    async with rehearse(app) as t:
        five = await two_past(t, dues)
        assert (five.minute % 5, five.second) == (0, 0)
        assert await next_slot(t) == five
        assert (await t.drain()).attempts == 0
        await to(t, five)
        assert dues == [five]
        assert await next_slot(t) == five + SLOT


async def test_a_failing_handler_holds_up_no_slot_and_its_retry_comes_beside_the_next() -> None:
    app, dues = App("audit"), list[datetime]()
    broken = False

    @app.cron("*/5 * * * *", retry=Retry(first=timedelta(minutes=7), jitter=0))
    async def audit(ctx: Ctx, due: Occurrence) -> None:
        dues.append(due.due_at)
        await ctx.stream.append("audit", due.due_at.isoformat())
        if broken:
            raise ConnectionError("no line")

    async with rehearse(app) as t:
        five = await two_past(t, dues)
        ten, fifteen = five + SLOT, five + 2 * SLOT
        await to(t, five)
        broken = True
        await to(t, ten)
        assert dues == [five, ten]
        assert await next_slot(t) == fifteen
        broken = False
        await to(t, ten + timedelta(minutes=8))
        assert dues == [five, ten, fifteen, ten]
        async with t.transaction() as ctx:
            audited = [datetime.fromisoformat(entry.payload) for entry in await ctx.stream.read("audit")]
        assert [at for at in audited if at >= five] == [five, fifteen, ten]


async def test_after_a_stand_still_the_latest_slot_alone_is_made_up_for() -> None:
    app, dues = App("audit"), list[datetime]()

    @app.cron("*/5 * * * *")
    async def audit(ctx: Ctx, due: Occurrence) -> None:
        dues.append(due.due_at)

    async with rehearse(app) as t:
        five = await two_past(t, dues)
        await to(t, five + timedelta(minutes=17), every_occurrence=False)
        assert dues == [five + 3 * SLOT]
        assert await next_slot(t) == five + 4 * SLOT
        assert (await t.drain()).attempts == 0


async def test_old_occurrences_are_forgotten(start: Start, outside: asyncpg.Connection) -> None:
    """There: they were kept for ever."""
    app = App("audit")

    @app.cron("0 0 1 1 *")
    async def audit(ctx: Ctx, due: Occurrence) -> None: ...

    async with start(app, workers=False):
        pass
    await outside.execute(
        "insert into chimpbase.occurrence (schedule, due_at, fired_at, state) "
        "values ('audit', '2020-01-01Z', '2020-01-01Z', 'skipped')"
    )
    async with start(app):
        await until(lambda: outside.fetchval("select count(*) = 0 from chimpbase.occurrence"))


async def test_a_key_is_set_read_listed_and_deleted() -> None:
    async with rehearse(App("keys")) as t, t.transaction() as ctx:
        assert await ctx.kv.get("a:1") is None
        await ctx.kv.set("a:1", {"n": 1})
        await ctx.kv.set("a:2", [2], ttl=timedelta(hours=1))
        await ctx.kv.set("b:1", "three")
        assert (await ctx.kv.get("a:1"), await ctx.kv.get("a:2"), await ctx.kv.get("b:1")) == ({"n": 1}, [2], "three")
        assert await ctx.kv.list("a:") == ["a:1", "a:2"]
        assert await ctx.kv.list() == ["a:1", "a:2", "b:1"]
        assert await ctx.kv.delete("a:1") is True
        assert await ctx.kv.delete("a:1") is False
        assert await ctx.kv.get("a:1") is None
        assert await ctx.kv.list("a:") == ["a:2"]


async def test_a_set_without_a_time_to_live_ends_the_one_before() -> None:
    async with rehearse(App("keys")) as t:
        async with t.transaction() as ctx:
            for key in ("kept", "gone"):
                await ctx.kv.set(key, 1, ttl=timedelta(hours=1))
            await ctx.kv.set("kept", 2)
        await t.advance(timedelta(hours=2))
        async with t.transaction() as ctx:
            assert (await ctx.kv.get("kept"), await ctx.kv.get("gone")) == (2, None)
            assert await ctx.kv.list() == ["kept"]


async def test_documents_are_inserted_found_changed_and_deleted() -> None:
    async with rehearse(App("documents")) as t, t.transaction() as ctx:
        todos = ctx.collection("todos")
        ids = [(await todos.insert({"title": title, "done": title == "b"})).id for title in "abc"]
        assert len(set(ids)) == 3
        (found,) = await todos.find({"title": "b"})
        assert (found.id, found.value) == (ids[1], {"id": ids[1], "title": "b", "done": True})
        assert len(await todos.find({"done": False}, limit=1)) == 1
        one = await todos.find_one({"id": ids[2]})
        assert one is not None
        assert one.value["title"] == "c"
        assert await todos.find_one({"title": "d"}) is None
        assert await todos.update({"title": "a"}, merge={"done": True}) == 1
        assert sorted(one.value["title"] for one in await todos.find({"done": True})) == ["a", "b"]
        await ctx.collection("notes").insert({"title": "n"})
        assert await ctx.collection.names() == ["notes", "todos"]
        assert await todos.delete({"title": "a"}) == 1
        assert await todos.delete({}) == 2
        assert await ctx.collection.names() == ["notes"]


async def test_entries_are_appended_with_whole_numbers_and_read_from_where_one_was() -> None:
    async with rehearse(App("entries")) as t:
        async with t.transaction() as ctx:
            ids = [await ctx.stream.append("activity", {"n": n}) for n in range(4)]
            await ctx.stream.append("another", {"n": 9})
        assert ids == sorted(set(ids))
        assert {type(id) for id in ids} == {int}
        async with t.transaction() as ctx:
            entries = await ctx.stream.read("activity")
            assert [(entry.id, entry.payload) for entry in entries] == [(ids[n], {"n": n}) for n in range(4)]
            assert await ctx.stream.read("activity", limit=2) == entries[:2]
            assert await ctx.stream.read("activity", after=entries[1].position) == entries[2:]
            assert await ctx.stream.read("activity", after=entries[-1].position) == []
