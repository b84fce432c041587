"""Everywhere: each primitive in each kind of handler; it commits with the handler and is taken back with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from chimpbase.testing import Rehearsal, rehearse
from tests.app.everywhere import (
    NEVER,
    PRIMITIVES,
    Errand,
    Refused,
    cried,
    entries,
    everywhere,
    inlined,
    jobs,
    sent,
    traces,
    use,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def t() -> AsyncIterator[Rehearsal]:
    async with rehearse(everywhere()) as t:
        async with t.transaction() as ctx:
            await ctx.db.execute("create table paper (tag text)")
        yield t


async def act(t: Rehearsal, kind: str, errand: Errand) -> None:
    await t.call(f"act.{kind}", errand)


async def work(t: Rehearsal, kind: str, errand: Errand) -> None:
    async with t.transaction() as ctx:
        await ctx.queue.enqueue(jobs[kind], errand)


async def hear(t: Rehearsal, kind: str, errand: Errand) -> None:
    async with t.transaction() as ctx:
        await ctx.pubsub.publish(sent[kind], errand)


async def join(t: Rehearsal, kind: str, errand: Errand) -> None:
    async with t.transaction() as ctx:
        await ctx.pubsub.publish(inlined[kind], errand)


async def answer(t: Rehearsal, kind: str, errand: Errand) -> None:
    async with t.transaction() as ctx:
        await ctx.pubsub.broadcast(cried[kind], errand)


async def tick(t: Rehearsal, kind: str, errand: Errand) -> None:
    async with t.transaction() as ctx:
        await ctx.cron.schedule("once", NEVER, to=f"tick.{kind}", payload=errand)
        await ctx.cron.run_now("once")
        await ctx.cron.remove("once")


async def keep(t: Rehearsal, kind: str, errand: Errand) -> None:
    async with t.transaction() as ctx:
        await ctx.stream.append(entries[kind], errand)


async def walk(t: Rehearsal, kind: str, errand: Errand) -> None:
    async with t.transaction() as ctx:
        await ctx.workflow.start(f"walk.{kind}", errand, id=errand.tag)


async def bind(t: Rehearsal, kind: str, errand: Errand) -> None:
    connection = await asyncpg.connect(t.database_url)
    try:
        async with connection.transaction():
            await use(t.app.bind(connection), errand)
    finally:
        await connection.close()


PLACES = [
    *((place, kind) for place in (act, hear, join, answer, work, tick, walk, keep) for kind in ("async", "plain")),
    (work, "child"),
    (bind, "asyncpg"),
]
#: Where the error is that of who caused it.
AT_ONCE = (act, join, bind)


@pytest.mark.parametrize(("place", "kind"), PLACES, ids=lambda one: one if isinstance(one, str) else one.__name__)
async def test_each_primitive_shares_the_fate_of_its_handler(
    t: Rehearsal, place: Callable[[Rehearsal, str, Errand], Awaitable[None]], kind: str
) -> None:
    errands = [
        Errand(primitive, f"{place.__name__}.{kind}.{primitive}.{fail}", fail)
        for primitive in PRIMITIVES
        for fail in (False, True)
    ]
    refused: list[str] = []
    for errand in errands:
        try:
            await place(t, kind, errand)
        except Refused as error:
            refused.append(str(error))
    await t.drain()
    async with t.transaction() as ctx:
        left = {errand.tag: await traces(ctx, errand.tag) for errand in errands}
    assert left == {errand.tag: set() if errand.fail else {errand.primitive} for errand in errands}
    assert refused == ([errand.tag for errand in errands if errand.fail] if place in AT_ONCE else [])
