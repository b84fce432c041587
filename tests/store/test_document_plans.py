"""Declared indexes are used: by what a handler sends, as it sends it, at a hundred thousand documents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from chimpbase import App, Collection, Index
from chimpbase._core.filters import parse_filter
from chimpbase._store import documents
from chimpbase._store.documents import Choice, Order, SortKey, Words

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

people = Collection(
    "people", dict, indexes=[Index("email", unique=True), Index("address.city", "age"), "tags.0"], search=["bio"]
)
FILL = """
insert into chimpbase.document (collection, id, body)
select 'people', n::text, jsonb_build_object(
  'id', n::text, 'email', 'u' || n, 'age', n % 90, 'address', jsonb_build_object('city', 'c' || n % 5000),
  'bio', case when n % 20000 = 0 then 'zebra keeper' else 'something else' end)
from generate_series(1, 100000) as n
"""


class Explained:
    """Instead of the rows of a statement, the nodes of its plan and its time, when it is run with these arguments."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.indexes = set[str]()
        self.time_ms = 0.0
        self.nodes = list[str]()

    async def fetch(self, sql: str, *args: object) -> list[Any]:
        best, answer = float("inf"), dict[str, Any]()
        for _ in range(3):
            text = await self._connection.fetchval(f"explain (analyze, format json) {sql}", *args)
            (answer,) = json.loads(str(text))
            best = min(best, answer["Execution Time"])
        self.time_ms, waiting = best, [answer["Plan"]]
        self.indexes, self.nodes = set(), []
        while waiting:
            node = waiting.pop()
            self.nodes.append(node["Node Type"])
            if "Index Name" in node:
                self.indexes.add(node["Index Name"])
            waiting += node.get("Plans", [])
        return []


@pytest.fixture
async def explained(dsn: str) -> AsyncIterator[Explained]:
    async with App("plans", register=[people]).running(database_url=dsn, workers=False):
        connection = await asyncpg.connect(dsn)
        await connection.execute(FILL)
        await connection.execute("vacuum analyze chimpbase.document")
        yield Explained(connection)
        await connection.close()


async def look(
    explained: Explained,
    where: dict[str, Any],
    *,
    sort: Sequence[SortKey] = (),
    after: Sequence[Any] | None = None,
    words: Words | None = None,
) -> None:
    connection: Any = explained
    choice = Choice(collection="people", where=parse_filter(where), words=words)
    await documents.find(connection, choice, order=Order(sort=sort, after=after, max_documents=10))


async def test_a_field_that_is_indexed_is_found_within_a_millisecond(explained: Explained) -> None:
    by_age = [SortKey(path=("age",), descending=False)]
    by_city = [SortKey(path=("address", "city"), descending=True), SortKey(path=("age",), descending=True)]
    for where, sort in [
        ({"email": "u77"}, []),
        ({"address.city": "c7"}, []),
        ({"address.city": "c7", "age": {"gte": 20, "lt": 40}}, []),
        ({"address.city": "c7"}, by_age),
        ({"address.city": {"prefix": "c77"}}, []),
        ({"address.city": {"gte": "c77", "lt": "c771"}}, []),
        ({"address.city": {"in": ["c1", "c2"]}}, []),
        ({}, by_city),
    ]:
        await look(explained, where, sort=sort)
        declared = {name for name in explained.indexes if name != "document_pkey"}
        assert declared, (where, explained.nodes, explained.indexes)
        assert explained.time_ms < 5, (where, explained.time_ms)
    await look(explained, {"email": "u77"})
    assert explained.time_ms < 1


async def test_an_id_is_found_by_the_primary_key_and_pages_go_on_there(explained: Explained) -> None:
    for where in ({"id": "77"}, {"id": {"in": ["1", "2"]}}, {"id": {"gt": "9"}}):
        await look(explained, where)
        assert explained.indexes == {"document_pkey"}
        assert explained.time_ms < 1
    await look(explained, {}, after=["5"])
    assert explained.indexes == {"document_pkey"}
    assert "Sort" not in explained.nodes
    city = [SortKey(path=("address", "city"), descending=False), SortKey(path=("age",), descending=False)]
    await look(explained, {}, sort=city, after=[3, "0", "c4000", 2, "5", "", "77"])
    assert explained.indexes
    assert "document_pkey" not in explained.indexes
    assert explained.time_ms < 5


async def test_words_are_found_by_their_index(explained: Explained) -> None:
    await look(explained, {}, words=Words(text="zebra", paths=[("bio",)], language="simple"))
    assert explained.indexes
    assert "document_pkey" not in explained.indexes
    assert explained.time_ms < 5
