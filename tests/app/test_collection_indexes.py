"""Indexes of collections: declared, made, listed, dropped; unique ones, and the words of documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Collection, Ctx, Index, SyncCtx, action
from chimpbase.errors import AlreadyRegistered, NotUnique, PayloadError, UsageError
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


async def test_words_are_searched_in_the_declared_fields(start: Start) -> None:
    app = App("c", register=[customers])
    async with start(app, workers=False):
        c = app.ctx.collection(customers)
        for name in ("Ada Lovelace", "Ada Byron", "Grace Hopper"):
            await c.insert(Customer(name, tags=["pioneer"]))
        assert sorted(one.value.name for one in await c.find(search="ada")) == ["Ada Byron", "Ada Lovelace"]
        assert await c.count(search="ada -byron") == 1
        assert await c.count(search="pioneer") == 0
        assert await c.count({"name": {"prefix": "G"}}, search="ada or grace") == 1
        for odd in ("", "'", '"', "a & | ! (", ":*", "\\", "x" * 1000):
            await c.count(search=odd)


async def test_indexes_are_made_at_start_listed_and_dropped(start: Start, outside: asyncpg.Connection) -> None:
    app = App("c", register=[users])
    async with start(app, workers=False):
        c = app.ctx.collection(users)
        states = await c.indexes()
        assert [(one.fields, one.unique, one.declared, one.ready) for one in states] == [
            (("email",), True, True, True),
            (("city", "age"), False, True, True),
        ]
        assert await c.create_indexes() == []
        with pytest.raises(UsageError, match="in a transaction"):
            async with app.transaction() as ctx:
                await ctx.collection(users).create_indexes()
        assert await c.drop_index("document_pkey") is False
        assert await c.drop_index(states[1].name) is True
        assert [one.ready for one in await c.indexes()] == [True, False]
        await outside.execute(
            f"update pg_index set indisvalid = false where indexrelid = 'chimpbase.{states[0].name}'::regclass"
        )
        assert sorted(await c.create_indexes()) == sorted(one.name for one in states)
        assert all(one.ready and one.declared for one in await c.indexes())
    async with start(App("later"), workers=False) as runtime:
        found = await runtime.ctx.collection("users").indexes()
        assert [one.declared for one in found] == [False, False]


async def test_documents_that_break_a_new_unique_index_are_told_at_start(start: Start) -> None:
    plain = App("plain")
    async with start(plain, workers=False):
        await plain.ctx.collection("users").insert_many([{"email": "a"}, {"email": "a"}])
    with pytest.raises(NotUnique, match="the same email"):
        async with start(App("c", register=[users]), workers=False):
            pass
    async with start(plain, workers=False):
        await plain.ctx.collection("users").update({}, unset="email")
    async with start(App("c", register=[users]), workers=False) as runtime:
        assert all(one.ready for one in await runtime.ctx.collection(users).indexes())


async def test_an_indexed_text_that_is_too_long_is_refused(start: Start) -> None:
    import random

    long = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8000))
    app = App("c", register=[users])
    async with start(app, workers=False):
        with pytest.raises(PayloadError, match="too long for an index"):
            await app.ctx.collection(users).insert({"city": long})


async def test_what_cannot_be_declared_is_refused() -> None:
    five: Any = {1: 5}
    wrong: list[Any] = [
        lambda: Collection("c", int),
        lambda: Collection("c", dict, version=0),
        lambda: Collection("c", dict, version=2, upcasts={2: lambda document: document}),
        lambda: Collection("c", dict, version=2, upcasts=five),
        lambda: Collection("c", dict, version=4, upcasts={1: dict, 3: dict}),
        lambda: Collection("c", dict, version=4, upcasts={1: dict, 2: dict}),
        lambda: Collection("c", dict, indexes="city"),
        lambda: Collection("c", dict, search="city"),
        lambda: Collection("c", dict, search=["city"], language="klingon"),
        Index,
        lambda: Index("a", "b", "c", "d", "e", "f"),
        lambda: Index("a..b"),
        lambda: Collection("no name"),
    ]
    for place, call in enumerate(wrong):
        with pytest.raises(UsageError):
            raise AssertionError(f"{place} was taken: {call()}")
    with pytest.raises(AlreadyRegistered):
        App("c", register=[users, Collection("users", dict)])


async def test_documents_belong_to_the_transaction_in_every_kind_of_handler(start: Start) -> None:
    @action
    async def plain(ctx: Ctx, fail: bool) -> int:
        await ctx.collection(customers).insert(Customer("A"))
        if fail:
            raise ZeroDivisionError
        return await ctx.collection(customers).count()

    @action
    def threaded(ctx: SyncCtx) -> list[str]:
        c = ctx.collection(customers)
        c.insert(Customer("B", 5))
        c.update({"name": "B"}, inc={"age": 1})
        assert c.count({"age": 6}) == 1
        page = c.find(sort="-age", fields=["name"])
        assert page[0].value == {"name": "B"}
        return ctx.collection.names()

    app = App("c", register=[customers, plain, threaded])
    async with start(app, workers=False):
        with pytest.raises(ZeroDivisionError):
            await app.call(plain, True)
        assert await app.call(plain, False) == 1
        assert await app.call(threaded) == ["customers"]
