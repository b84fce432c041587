"""Collections: documents in and out, filters, pages, changes, versions, indexes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from chimpbase import App, Collection, Index
from chimpbase.errors import Conflict, NotUnique, PayloadError, UsageError
from tests.running import Start

pytestmark = pytest.mark.anyio


@dataclass
class Address:
    city: str


@dataclass
class Customer:
    name: str
    age: int = 0
    tags: list[str] = field(default_factory=list)
    address: Address | None = None


customers = Collection("customers", Customer, indexes=["address.city"], search=["name"])
users = Collection("users", dict, indexes=[Index("email", unique=True), Index("city", "age")])


async def test_a_document_is_inserted_read_replaced_and_deleted(start: Start) -> None:
    app = App("c", register=[customers])
    async with start(app, workers=False):
        c = app.ctx.collection(customers)
        ada = await c.insert(Customer("Ada", 36, ["math"], Address("London")))
        assert ada.value == Customer("Ada", 36, ["math"], Address("London"))
        assert len(ada.id) == 36
        assert await c.get(ada.id) == ada
        assert await c.get("nobody") is None
        await c.insert(Customer("Bob"), id="bob")
        put = await c.put("bob", Customer("Bob", 4))
        assert put.version > ada.version
        assert [one.value.name for one in await c.find(sort="age")] == ["Bob", "Ada"]
        assert await c.count() == 2
        assert await c.delete("bob") == 1
        assert await c.delete({}) == 1
        assert await c.find() == []
        assert await app.ctx.collection.names() == []


async def test_a_plain_collection_has_its_ids_in_its_documents(start: Start) -> None:
    app = App("c")
    async with start(app, workers=False):
        c = app.ctx.collection("things")
        one = await c.insert({"a": 1})
        assert one.value == {"a": 1, "id": one.id}
        assert (await c.insert({"id": "x", "a": 2})).id == "x"
        assert await c.insert_many([{"id": "y"}, {"a": 3}]) == ["y", (await c.find({"a": 3}))[0].id]
        assert [one.id for one in await c.find({"id": {"in": ["x", "y"]}})] == ["x", "y"]
        assert (await c.find_one("x") or one).value == {"id": "x", "a": 2}
        with pytest.raises(UsageError, match="is not the id"):
            await c.insert({"id": "p"}, id="q")
        assert await app.ctx.collection.names() == ["things"]


async def test_an_id_that_is_there_is_a_conflict_and_the_transaction_goes_on(start: Start) -> None:
    app = App("c", register=[users])
    async with start(app, workers=False):
        async with app.transaction() as ctx:
            c = ctx.collection(users)
            await c.insert({"id": "a", "email": "a@b"})
            with pytest.raises(NotUnique, match="'a'"):
                await c.insert({"id": "a"})
            with pytest.raises(NotUnique):
                await c.insert({"id": "b", "email": "a@b"})
            await c.insert_many([{"id": "n1"}, {"id": "n2"}, {"id": "n3", "email": None}, {"id": "n4", "email": None}])
        for refused in (
            lambda: app.ctx.collection(users).insert_many([{"id": "c"}, {"id": "a"}]),
            lambda: app.ctx.collection(users).insert_many([{"id": "c"}, {"id": "d", "email": "a@b"}]),
            lambda: app.ctx.collection(users).put("n1", {"email": "a@b"}),
            lambda: app.ctx.collection(users).update("n1", set={"email": "a@b"}),
        ):
            with pytest.raises(NotUnique, match="the same (id|email)"):
                await refused()
        assert await app.ctx.collection(users).count() == 5


async def test_versions_guard_writes(start: Start) -> None:
    app = App("c")
    async with start(app, workers=False):
        c = app.ctx.collection("things")
        first = await c.insert({"id": "a", "n": 1})
        second = await c.put("a", {"n": 2}, if_version=first.version)
        for late in (
            lambda: c.put("a", {"n": 3}, if_version=first.version),
            lambda: c.update("a", inc={"n": 1}, if_version=first.version),
            lambda: c.delete("a", if_version=first.version),
            lambda: c.put("b", {"n": 3}, if_version=first.version),
        ):
            with pytest.raises(Conflict, match="changed or deleted"):
                await late()
        assert await c.update("a", inc={"n": 1}, if_version=second.version) == 1
        assert (await c.get("a") or second).value == {"id": "a", "n": 3}


PEOPLE: list[dict[str, Any]] = [
    {"id": "1", "name": "Ada", "age": 36, "tags": ["math", 1], "address": {"city": "London", "zip": None}},
    {"id": "2", "name": "bob", "age": 36.0, "vip": True, "address": {"city": "Porto"}},
    {"id": "3", "name": "Čapek", "age": "36", "vip": False, "nested": {"a": {"b": [1, {"c": 2}]}}},
    {"id": "4", "name": "a_b%", "age": -0.5, "tags": []},
    {"id": "5", "name": "Zoë", "age": 9007199254740993, "x.y": 1, "and": 2},
    {"id": "6"},
]
FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "123456"),
    ({"age": 36}, "12"),
    ({"age": "36"}, "3"),
    ({"age": {"ne": 36}}, "3456"),
    ({"age": {"gt": 0}}, "125"),
    ({"age": {"gte": -0.5, "lt": 36}}, "4"),
    ({"age": {"gt": "0"}}, "3"),
    ({"age": 9007199254740993}, "5"),
    ({"age": 9007199254740992}, ""),
    ({"age": {"in": [36, "36", None]}}, "123"),
    ({"age": {"nin": [36, "36"]}}, "456"),
    ({"age": {"in": []}}, ""),
    ({"vip": True}, "2"),
    ({"vip": {"ne": True}}, "13456"),
    ({"vip": 1}, ""),
    ({"address.zip": None}, "1"),
    ({"address.zip": {"exists": True}}, "1"),
    ({"address": {"exists": False}}, "3456"),
    ({"address.city": {"gte": "M"}}, "2"),
    ({"address": {"eq": {"city": "Porto"}}}, "2"),
    ({"tags": ["math", 1]}, "1"),
    ({"tags": {"contains": "math"}}, "1"),
    ({"tags": {"contains": 1.0}}, "1"),
    ({"tags": {"contains": "1"}}, ""),
    ({"tags.0": "math"}, "1"),
    ({"nested.a.b": {"contains": {"c": 2}}}, "3"),
    ({"nested.a.b.1.c": 2}, "3"),
    ({"name": {"contains": "b%"}}, "4"),
    ({"name": {"contains": ""}}, "12345"),
    ({"name": {"prefix": "a"}}, "4"),
    ({"name": {"prefix": "a_"}}, "4"),
    ({"name": {"prefix": ""}}, "12345"),
    ({"name": {"lt": "a"}}, "15"),
    ({"name": {"gte": "a"}}, "234"),
    ({"/x.y": 1}, "5"),
    ({"/and": 2}, "5"),
    ({"or": [{"age": 36}, {"id": "6"}]}, "126"),
    ({"and": [{"age": 36}, {"vip": True}]}, "2"),
    ({"not": {"age": 36}}, "3456"),
    ({"not": {"or": []}}, "123456"),
    ({"id": {"gt": "4"}}, "56"),
]


async def test_filters_mean_what_they_say(start: Start) -> None:
    app = App("c")
    async with start(app, workers=False):
        c = app.ctx.collection("people")
        await c.insert_many(PEOPLE)
        await app.ctx.collection("others").insert_many(PEOPLE)
        found = [("".join(one.id for one in await c.find(where)), where) for where, _ in FILTERS]
        assert found == [(ids, where) for where, ids in FILTERS]
        assert [await c.count(where) for where, _ in FILTERS] == [len(ids) for _, ids in FILTERS]


def nested(levels: int) -> dict[str, Any]:
    where: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        where = {"not": where}
    return where


NO_FILTERS: list[Any] = [
    {"a": {"regex": "x"}},
    {"a": {"$gt": 1}},
    {"a": {}},
    {"a": {"gt": None}},
    {"a": {"gt": True}},
    {"a": {"gt": []}},
    {"a": {"in": 1}},
    {"a": {"in": list(range(1001))}},
    {"a": {"exists": 1}},
    {"a": {"prefix": 1}},
    {"and": {"a": 1}},
    {"or": [1]},
    {"": 1},
    {"a..b": 1},
    {".".join("abcdefghijk"): 1},
    {"a" * 129: 1},
    {"a\x00": 1},
    {"a": "\x00"},
    {"a": "\ud800"},
    {"a": float("nan")},
    {"a": 2**63},
    {1: 1},
    nested(12),
    {"or": [{"a": n} for n in range(51)]},
    {"a": "x" * 300_000},
    "",
    "x" * 513,
    5,
    [("a", 1)],
]


async def test_what_is_no_filter_is_refused(start: Start) -> None:
    app = App("c")
    async with start(app, workers=False):
        for where in NO_FILTERS:
            for verb in (app.ctx.collection("c").find, app.ctx.collection("c").count, app.ctx.collection("c").delete):
                with pytest.raises(PayloadError):
                    raise AssertionError(f"{where!r:.80} was taken: {await verb(where)}")
        c = app.ctx.collection("c")
        others: list[Any] = [
            lambda: c.find(limit=0),
            lambda: c.find(limit=1001),
            lambda: c.find(limit=True),
            lambda: c.find(sort="a..b"),
            lambda: c.find(sort=[1]),  # type: ignore[list-item]
            lambda: c.find(sort=["a"] * 6),
            lambda: c.find(fields=[]),
            lambda: c.find(fields="a"),  # type: ignore[call-overload]
            lambda: c.find(after="nonsense"),
            lambda: c.find(after="W10"),
            lambda: c.find(after="é"),
            lambda: c.find(after=5),  # type: ignore[call-overload]
            lambda: c.find(search="a"),
            lambda: c.update({}),
            lambda: c.update({}, set={"id": "x"}),
            lambda: c.update({}, merge={"id": "x"}),
            lambda: c.update({}, unset="id"),
            lambda: c.update({}, inc={"a": "1"}),  # type: ignore[dict-item]
            lambda: c.update({}, inc={"a": True}),
            lambda: c.update({}, set=5),  # type: ignore[arg-type]
            lambda: c.update(None, set={"a": 1}),  # type: ignore[arg-type]
            lambda: c.delete(None),  # type: ignore[arg-type]
            lambda: c.insert([]),
            lambda: c.insert("x"),
            lambda: c.insert({"id": 5}),
            lambda: c.insert({}, id=""),
            lambda: c.put("a", {}, if_version=-1),
            lambda: c.insert_many([{}, {"a": "\x00"}]),
            lambda: app.ctx.collection("no such name"),
        ]
        for place, call in enumerate(others):
            with pytest.raises(UsageError):
                raise AssertionError(f"{place} was taken: {await call()}")
        assert await c.count() == 0


async def test_pages_follow_each_other_in_every_order(start: Start) -> None:
    app = App("c")
    rows = [{"id": f"{n:02}", "a": [None, 1, "x", True, 2.5, [1]][n % 6], "b": n % 4} for n in range(40)]
    async with start(app, workers=False):
        c = app.ctx.collection("rows")
        await c.insert_many(rows)
        for sort in (
            [],
            ["a"],
            ["-a"],
            ["a", "-b"],
            ["-b", "a"],
            ["-b", "-a"],
            ["missing", "b"],
            ["-id"],
            ["b", "-id"],
        ):
            whole = [one.id for one in await c.find(sort=sort)]
            assert len(whole) == 40
            paged, after = list[str](), None
            while True:
                page = await c.find(sort=sort, limit=7, after=after)
                paged += [one.id for one in page]
                if page.next is None:
                    break
                after = page.next
            assert paged == whole, sort
        assert [one.value["b"] for one in await c.find(sort="-b", limit=3)] == [3, 3, 3]
        first = await c.find(sort="a", limit=5)
        with pytest.raises(PayloadError, match="another sort"):
            await c.find(sort="b", after=first.next)


async def test_only_some_fields_are_read(start: Start) -> None:
    app = App("c")
    async with start(app, workers=False):
        c = app.ctx.collection("people")
        await c.insert_many(PEOPLE)
        page = await c.find({"id": {"in": ["1", "3"]}}, fields=["name", "address.city", "tags.0", "nested.a.b.1.c"])
        assert [one.value for one in page] == [
            {"name": "Ada", "address": {"city": "London"}, "tags": ["math", 1]},
            {"name": "Čapek", "nested": {"a": {"b": [1, {"c": 2}]}}},
        ]


async def test_changes_are_made_in_one_statement(start: Start) -> None:
    app = App("c")
    async with start(app, workers=False):
        c = app.ctx.collection("things")
        await c.insert_many([{"id": "a", "n": 1, "l": [1, 2, 1.0, "1"], "o": {"x": 1}}, {"id": "b", "n": 5}])
        count = await c.update(
            {"n": {"lt": 3}},
            merge={"m": {"k": None}},
            set={"o.y.z": "deep", "l.1": "two"},
            unset=["o.x", "nothing.here"],
            inc={"n": 2, "new.count": -1.5},
            push={"list": {"a": 1}, "l": 9},
            pull={"l": 1, "absent": 1},
        )
        assert count == 1
        assert [one.value for one in await c.find(sort="id")] == [
            {
                "id": "a",
                "n": 3,
                "l": ["two", "1", 9],
                "o": {"y": {"z": "deep"}},
                "m": {"k": None},
                "new": {"count": -1.5},
                "list": [{"a": 1}],
            },
            {"id": "b", "n": 5},
        ]
        misfits: list[dict[str, Any]] = [
            {"inc": {"o": 1}},
            {"inc": {"n": 2**63 - 1}},
            {"push": {"n": 1}},
            {"set": {"n.x": 1}},
            {"set": {"l.7": 1}},
            {"set": {"l.x": 1}},
        ]
        for wrong in misfits:
            with pytest.raises(PayloadError, match="change: does not fit"):
                await c.update("a", **wrong)


async def test_no_change_of_another_is_lost(start: Start) -> None:
    app = App("c")
    async with start(app, workers=False):
        c = app.ctx.collection("things")
        await c.insert_many([{"id": f"{n}", "n": 0, "l": []} for n in range(5)])
        await asyncio.gather(*(c.update({}, inc={"n": 1}, push={"l": n}) for n in range(20)))
        for one in await c.find():
            assert one.value["n"] == 20
            assert sorted(one.value["l"]) == list(range(20))


async def test_an_older_document_is_read_through_its_upcasts(start: Start) -> None:
    old = App("old")
    async with start(old, workers=False):
        await old.ctx.collection("customers").insert({"id": "1", "full": "Ada L"})

    def split(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "name": document["full"].split()[0]}

    def ages(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "age": 36}

    new = App("new", register=[Collection("customers", Customer, version=3, upcasts={1: split, 2: ages})])
    async with start(new, workers=False):
        found = await new.ctx.collection("customers").get("1")
        assert found is not None
        assert found.value == Customer("Ada", 36)
        await new.ctx.collection("customers").put("1", found.value)
        assert await new.ctx.collection("customers").get("1") is not None

    def broken(document: dict[str, Any]) -> dict[str, Any]:
        return document["nothing"]

    bad = App("bad", register=[Collection("customers", Customer, version=4, upcasts={3: broken})])
    async with start(bad, workers=False):
        with pytest.raises(PayloadError, match="document '1' of collection 'customers': its upcast from version 3"):
            await bad.ctx.collection("customers").get("1")
