"""Collections: 100,000 documents, one found by an indexed field and one updated; what the server takes for it."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any, TypedDict

import asyncpg

from bench.group import Group
from bench.timed import rate_of
from chimpbase import App, Collection, Index

_DOCUMENTS = 100_000


class Person(TypedDict):
    """About 150 bytes of JSON."""

    email: str
    city: str
    visits: int
    note: str


people = Collection("bench.people", Person, indexes=[Index("email"), Index("city", "visits")])


class _Last:
    """Keeps the last statement of a pool."""

    sql, args = "", ()

    def before(self, sql: str, args: Any) -> None:
        self.sql, self.args = sql, args

    def after(self, sql: str, error: BaseException | None) -> None:
        """Nothing is to be done then."""


class Documents:
    """The part of the group."""

    def __init__(self, group: Group) -> None:
        self.group = group

    async def all(self) -> None:
        """Fill, find, update."""
        group, stand = self.group, self.group.stand
        count = group.sizes.of(_DOCUMENTS, least=20_000)
        seconds = group.sizes.seconds(2, least=0.7)
        await stand.value("truncate chimpbase.document")
        app = App("bench", register=[people])
        async with stand.running(app, workers=False) as runtime:
            found = app.ctx.collection(people)
            await found.create_indexes()
            began = perf_counter()
            for start in range(0, count, 10_000):
                await found.insert_many([_person(n) for n in range(start, min(count, start + 10_000))])
            group.add("insert documents by the 10,000", count / (perf_counter() - began))
            await stand.value("vacuum (analyze) chimpbase.document")
            last, db = _Last(), runtime._db
            assert db is not None, "it runs"
            db.listen(last)

            async def find(number: int) -> None:
                person = _person(number % count)
                document = await found.find_one({"email": person["email"]})
                if document is None or document.value["visits"] != person["visits"]:
                    raise RuntimeError(f"{person['email']} was lost, or is another: {document}")

            await find(77)
            db.listen(None)
            group.add(
                f"find among {count:,} documents by an indexed field: time of the server",
                await self._server_ms(last),
                "ms",
                target=1,
                less_is_better=True,
            )
            rate, _ = await rate_of(find, callers=16, seconds=seconds)
            group.add("find by an indexed field, 16 callers", rate)
            updated: dict[int, int] = {}

            async def visit(number: int) -> None:
                place = number % count
                updated[place] = updated.get(place, 0) + 1
                await found.update({"email": _person(place)["email"]}, inc={"visits": 1})

            rate, done = await rate_of(visit, callers=16, seconds=seconds)
            limit = group.limits["commits, 16 connections"]
            group.add("update one document by an indexed field, 16 callers", rate, limit=limit)
            began = perf_counter()
            await found.update({}, inc={"visits": 1})
            group.add(f"update {count:,} documents in one call", count / (perf_counter() - began))
        wanted = sum(_person(n)["visits"] for n in range(count)) + done + count
        stored = await stand.value("select sum((body ->> 'visits')::int) from chimpbase.document")
        if stored != wanted:
            raise RuntimeError(f"{wanted} visits counted, {stored} stored")

    async def _server_ms(self, last: _Last) -> float:
        """The median of what EXPLAIN ANALYZE says of the statement that was sent last."""
        connection = await asyncpg.connect(self.group.stand.dsn)
        try:
            times: list[float] = []
            for _ in range(21):
                (plan,) = json.loads(
                    await connection.fetchval(f"explain (analyze, format json) {last.sql}", *last.args)
                )
                times.append(plan["Planning Time"] + plan["Execution Time"])
            return sorted(times)[10]
        finally:
            await connection.close()


def _person(number: int) -> Person:
    return Person(email=f"person{number}@example.org", city=f"city{number % 500}", visits=number % 100, note="x" * 60)
