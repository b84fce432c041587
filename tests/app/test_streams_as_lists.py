"""A stream is what a list would be, whatever is appended alone or in transactions that may be taken back.

And its consumer copies it, entry by entry and in its order, though batches fail and the app is started anew.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase import App, Ctx, Entry, Retry, Stream
from chimpbase.errors import WrongVersion
from chimpbase.testing import Rehearsal, rehearse

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
CASES = int(os.environ.get("CHIMPBASE_TEST_CASES", "8"))

source, copy = Stream("source", int), Stream("copy", int)
ALL = 10_000
NAME, KEY = st.sampled_from(["source", "other"]), st.sampled_from([None, "k", "l"])
DEED = st.one_of(
    st.tuples(st.just("append"), NAME, st.lists(st.integers(0, 9), min_size=1, max_size=4), KEY),
    st.tuples(st.just("expect"), NAME, st.integers(-1, 1), st.integers(0, 9)),
)
#: Deeds; whether they share a transaction; whether that is taken back; what comes then; and where to read from.
PLAN = st.lists(
    st.tuples(
        st.lists(DEED, max_size=4),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["nothing", "drain", "drain", "restart"]),
        st.integers(0, 30),
        st.integers(1, 5),
    ),
    min_size=3,
    max_size=5,
)


class _TakenBackError(Exception):
    pass


def copying() -> App:
    app, calls = App("copying", register=[source, copy]), count()

    @app.consumer(source, batch=3, retry=Retry(max_attempts=9, first=timedelta(0)))
    async def keep(ctx: Ctx, entries: list[Entry[int]]) -> None:
        await ctx.stream.append_many(copy, [entry.payload for entry in entries])
        if next(calls) % 3 == 1:
            raise ConnectionError("after it has written")

    return app


Model = dict[str, list[tuple[int, str | None]]]


@dataclass
class Checked:
    """The streams of one example and what they should hold. `source` goes on from one example to the next."""

    dsn: str
    model: Model = field(default_factory=lambda: {"source": []})
    others: Any = field(default_factory=count)
    rooms: AsyncExitStack = field(default_factory=AsyncExitStack)
    t: Rehearsal | None = None
    held: list[tuple[str, int, str]] = field(default_factory=list)

    async def start(self) -> Rehearsal:
        await self.rooms.aclose()
        self.t = await self.rooms.enter_async_context(rehearse(copying(), database_url=self.dsn))
        return self.t

    async def check(self, plan: list[Any]) -> None:
        t = self.t or await self.start()
        self.held.clear()
        other = f"other {next(self.others)}".replace(" ", "-")
        self.model = {"source": self.model["source"], other: []}
        for deeds, together, taken_back, then, at, limit in plan:
            named = [(kind, other if name == "other" else name, *rest) for kind, name, *rest in deeds]
            await self._do_all(t, named, together=together, taken_back=taken_back)
            if then == "restart":
                t = await self.start()
            elif then == "drain":
                await t.drain()
                copied = [entry.payload for entry in await t.app.ctx.stream.read(copy, limit=ALL)]
                assert copied == [payload for payload, _ in self.model["source"]]
                assert await t.app.ctx.stream.lag("keep") == 0
            for name in self.model:
                await self._read(t.app.ctx, name, at, limit)

    async def _do_all(self, t: Rehearsal, deeds: list[Any], *, together: bool, taken_back: bool) -> None:
        if not together:
            for deed in deeds:
                await _do(t.app.ctx, self.model, deed)
            return
        inside = {name: list(entries) for name, entries in self.model.items()}
        try:
            async with t.transaction() as ctx:
                for deed in deeds:
                    await _do(ctx, inside, deed)
                if taken_back:
                    raise _TakenBackError
            self.model = inside
        except _TakenBackError:
            pass

    async def _read(self, ctx: Ctx, name: str, at: int, limit: int) -> None:
        wanted = self.model[name]
        entries = await ctx.stream.read(name, limit=ALL)
        assert [(entry.payload, entry.key) for entry in entries] == wanted
        assert await ctx.stream.version(name) == len(wanted)
        assert await ctx.stream.read(name, backward=True, limit=limit) == entries[::-1][:limit]
        # places of before keep their meaning, also when the app was started anew since
        for held, index, position in self.held:
            if held == name:
                assert await ctx.stream.read(name, after=position, limit=limit) == entries[index + 1 :][:limit]
                before = await ctx.stream.read(name, after=position, backward=True, limit=limit)
                assert before == entries[:index][::-1][:limit]
        if entries:
            index = at % len(entries)
            self.held.append((name, index, entries[index].position))


async def _do(ctx: Ctx, model: Model, deed: tuple[Any, ...]) -> None:
    match deed:
        case ("append", name, payloads, key):
            ids = await ctx.stream.append_many(name, payloads, key=key)
            assert ids == sorted(set(ids))
            model[name] += [(payload, key) for payload in payloads]
        case ("expect", name, off, payload):
            expected = max(0, len(model[name]) + off)
            if expected == len(model[name]):
                await ctx.stream.append(name, payload, expected_version=expected)
                model[name].append((payload, None))
            else:
                with pytest.raises(WrongVersion) as caught:
                    await ctx.stream.append(name, payload, expected_version=expected)
                assert (caught.value.expected, caught.value.found) == (expected, len(model[name]))
        case _:
            raise AssertionError(deed)


async def test_streams_are_what_lists_would_be(dsn: str) -> None:
    checked, loop = Checked(dsn), asyncio.get_running_loop()

    @settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
    @given(PLAN)
    def compare(plan: list[Any]) -> None:
        asyncio.run_coroutine_threadsafe(checked.check(plan), loop).result(timeout=30)

    try:
        await asyncio.to_thread(compare)
    finally:
        await checked.rooms.aclose()
