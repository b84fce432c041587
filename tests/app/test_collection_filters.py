"""Filters against an oracle, and against whoever tries to make SQL of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase import App, Collection, Index
from chimpbase.errors import ChimpbaseError, UsageError
from tests.running import Start

pytestmark = pytest.mark.anyio

NAMES = ["a", "b", "c.d", "e.0"]
TEXTS = st.sampled_from(["", "a", "A", "ab", "é", "z", "10", "\U0001f600", "\uffff", "a_%"])
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from(
        [0.0, -0.0, 1.0, 1.5, -2.5, 2**53, 2**53 + 1, 2**63 - 1, -(2**63) + 1, 1e300, 1e-300, 1e23, 4.6e18]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["d", "k"]), inner, max_size=2)
    ),
    max_leaves=4,
)
DOCUMENTS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c", "e"]), VALUES, max_size=4), min_size=1, max_size=8)
TESTS = st.one_of(
    VALUES.filter(lambda value: not isinstance(value, dict)),
    st.builds(lambda op, value: {op: value}, st.sampled_from(["eq", "ne", "contains"]), VALUES),
    st.builds(
        lambda op, value: {op: value},
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.one_of(NUMBERS, TEXTS),
    ),
    st.builds(lambda op, value: {op: value}, st.sampled_from(["in", "nin"]), st.lists(VALUES, max_size=4)),
    st.builds(lambda value: {"exists": value}, st.booleans()),
    st.builds(lambda value: {"prefix": value}, TEXTS),
)
FIELDS = st.dictionaries(st.sampled_from(NAMES), TESTS, max_size=2)
FILTERS = st.recursive(
    FIELDS,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"and": parts}, st.lists(inner, max_size=3)),
        st.builds(lambda parts: {"or": parts}, st.lists(inner, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=4,
)
SORTS = st.lists(
    st.sampled_from(["a", "-a", "b", "-c.d", "id", "-id"]), max_size=2, unique_by=lambda one: one.lstrip("-")
)
MISSING: Any = object()


def at(document: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and part.isdigit() and int(part) < len(document):
            document = document[int(part)]
        else:
            return MISSING
    return document


def same(one: Any, other: Any) -> bool:
    """JSON equality: booleans are no numbers, and numbers are what they are in decimal."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return decimal(one) == decimal(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def decimal(number: float) -> Decimal:
    return Decimal(repr(number))


def holds(document: Any, where: dict[str, Any]) -> bool:
    return all(member(document, key, value) for key, value in where.items())


def member(document: Any, key: str, value: Any) -> bool:
    match key:
        case "and":
            return all(holds(document, part) for part in value)
        case "or":
            return any(holds(document, part) for part in value)
        case "not":
            return not holds(document, value)
        case _:
            found = at(document, key)
            operators = value if isinstance(value, dict) else {"eq": value}
            return all(OPS[op](found, operand) for op, operand in operators.items())


def compared(sign: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def test(found: Any, operand: Any) -> bool:
        if isinstance(found, str) and isinstance(operand, str):
            return sign(found.encode(), operand.encode())
        if isinstance(found, bool) or not isinstance(found, int | float) or isinstance(operand, str):
            return False
        return sign(decimal(found), decimal(operand))

    return test


def is_in(found: Any, operand: Any) -> bool:
    return any(same(found, one) for one in operand)


def contains(found: Any, operand: Any) -> bool:
    if isinstance(found, list):
        return any(same(one, operand) for one in found)
    return isinstance(found, str) and isinstance(operand, str) and operand in found


OPS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": same,
    "ne": lambda found, operand: not same(found, operand),
    "gt": compared(lambda a, b: a > b),
    "gte": compared(lambda a, b: a >= b),
    "lt": compared(lambda a, b: a < b),
    "lte": compared(lambda a, b: a <= b),
    "in": is_in,
    "nin": lambda found, operand: not is_in(found, operand),
    "exists": lambda found, operand: (found is not MISSING) is operand,
    "contains": contains,
    "prefix": lambda found, operand: isinstance(found, str) and found.startswith(operand),
}


def rank(value: Any) -> tuple[Any, ...]:
    """The place in the order of all values; lists and objects only by their kind."""
    match value:
        case bool():
            return 1, Decimal(value), b""
        case int() | float():
            return 2, decimal(value), b""
        case str():
            return 3, Decimal(0), value.encode()
        case list():
            return 4, Decimal(0), b""
        case dict():
            return 5, Decimal(0), b""
        case _:
            return -1, Decimal(0), b""


@pytest.mark.timeout(300)
async def test_a_filter_finds_what_the_oracle_finds(start: Start) -> None:
    indexed = Collection("indexed", dict, indexes=["a", Index("c.d", "a")])
    app = App("filters", register=[indexed])
    async with start(app, workers=False):
        loop = asyncio.get_running_loop()

        async def check(documents: list[dict[str, Any]], where: dict[str, Any], sort: list[str]) -> None:
            async with app.transaction() as ctx:
                c = ctx.collection("indexed")
                await c.delete({})
                rows = {id: {**document, "id": id} for document, id in zip(documents, "12345678", strict=False)}
                await c.insert_many(rows.values())
                wanted = [id for id, row in rows.items() if holds(row, where)]
                assert [one.id for one in await c.find(where)] == wanted
                assert await c.count(where) == len(wanted)
                assert await c.count({"not": where}) == len(rows) - len(wanted)
                found = [one.value for one in await c.find(where, sort=sort)]
                places = [[rank(at(row, key.lstrip("-"))) for key in sort] for row in found]
                for before, after in pairwise(places):
                    assert in_order(before, after, sort), (found, sort)
                assert await c.update(where, set={"touched": True}) == len(wanted)
                assert await c.delete(where) == len(wanted) or "touched" in repr(where)

        @settings(
            max_examples=150,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        )
        @given(DOCUMENTS, FILTERS, SORTS)
        def compare(documents: list[dict[str, Any]], where: dict[str, Any], sort: list[str]) -> None:
            asyncio.run_coroutine_threadsafe(check(documents, where, sort), loop).result(timeout=20)

        await asyncio.to_thread(compare)


def in_order(before: list[Any], after: list[Any], sort: list[str]) -> bool:
    for one, other, key in zip(before, after, sort, strict=True):
        if one != other:
            if one[0] == other[0] and one[0] in (4, 5):
                return True
            return one > other if key.startswith("-") else one < other
        if one[0] in (4, 5):
            return True
    return True


CORPUS = [
    "'; drop table canary; --",
    "' or '1'='1",
    "\\'; drop table canary; --",
    "$1",
    "$$; drop table canary; $$",
    "/* */ drop table canary",
    "/*where*/ true",
    "/*order*/ id",
    "a}',(select 1))--",
    '"; drop table canary; --',
    "%s %(p1)s {0} {x}",
    "a'||pg_sleep(5)||'",
    "{a,b}",
    "null",
    ":collection",
    "\u2019; drop table canary",
    "a\nb;drop table canary",
]


async def test_nothing_that_is_given_becomes_sql(start: Start, outside: asyncpg.Connection) -> None:
    await outside.execute("create table canary (n int); insert into canary values (1)")
    app = App("injection")
    async with start(app, workers=False):
        c = app.ctx.collection("c")
        await c.insert({"id": "one", "a": 1})
        kv = app.ctx.kv
        for text in CORPUS:
            calls: list[Any] = [
                lambda text=text: c.find({text: 1}),
                lambda text=text: c.find({f"/{text}": {"gt": "a"}}),
                lambda text=text: c.find({"a": text}),
                lambda text=text: c.find({"a": {"in": [text], "ne": text, "prefix": text, "contains": text}}),
                lambda text=text: c.find({"a": {"contains": {text: [text]}, "eq": {text: text}}}),
                lambda text=text: c.find({"a": {text: 1}}),
                lambda text=text: c.find(text),
                lambda text=text: c.find({}, sort=[text, f"-{text}"]),
                lambda text=text: c.find({}, fields=[text]),
                lambda text=text: c.find({}, after=text),
                lambda text=text: c.count({"or": [{text: text}]}),
                lambda text=text: c.update({text: text}, set={"x": text}),
                lambda text=text: c.update({}, set={text: text}),
                lambda text=text: c.update({}, merge={text: text}, push={text: text}),
                lambda text=text: c.update({}, unset=text, pull={text: text}),
                lambda text=text: c.insert({text: text}),
                lambda text=text: c.put(text, {text: text}),
                lambda text=text: c.get(text),
                lambda text=text: c.delete({"zz": text}),
                lambda text=text: c.drop_index(text),
                lambda text=text: app.ctx.collection(text).find(),
                lambda text=text: kv.set(text, text),
                lambda text=text: kv.get(text),
                lambda text=text: kv.list(text, after=text),
                lambda text=text: kv.incr(text),
                lambda text=text: kv.allow(text, limit=1),
                lambda text=text: kv(text).get("a"),
            ]
            for place, call in enumerate(calls):
                try:
                    await call()
                except UsageError:
                    pass  # refused at the door
                except ChimpbaseError as error:
                    raise AssertionError(f"call {place} with {text!r} reached the server: {error}") from error
            try:
                declared: Any = Collection(f"odd-{CORPUS.index(text)}", dict, indexes=[Index(text)], search=[text])
            except UsageError:
                continue
            made = await app.ctx.collection(declared).create_indexes()
            assert len(made) == 2
            await app.ctx.collection(declared).insert({text: text})
            assert await app.ctx.collection(declared).count(search="drop") in (0, 1)
            for name in made:
                assert await app.ctx.collection(declared).drop_index(name)
    assert await outside.fetchval("select count(*) from canary") == 1
