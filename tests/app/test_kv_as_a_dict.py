"""Keys are what a dict would be, whatever is done alone or in transactions that may be taken back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimpbase import App, Ctx
from tests.running import Start

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

KEYS = ["a", "a_", "a_1", "ab", "axb", "b%", "b"]
VALUES = st.one_of(st.none(), st.integers(-5, 5), st.text("xy", max_size=2), st.lists(st.booleans(), max_size=2))
KEY = st.sampled_from(KEYS)
DEED = st.one_of(
    st.tuples(st.just("set"), KEY, VALUES),
    st.tuples(st.just("if_absent"), KEY, VALUES),
    st.tuples(st.just("if_version"), KEY, st.booleans(), VALUES),
    st.tuples(st.just("set_many"), st.dictionaries(KEY, VALUES, max_size=3)),
    st.tuples(st.just("delete"), KEY),
    st.tuples(st.just("incr"), KEY, st.integers(-3, 3)),
    st.tuples(st.just("list"), st.sampled_from(["", "a", "a_", "b%", "zz"]), st.integers(1, 4)),
)
#: Deeds, whether they share a transaction, and whether that is taken back.
PLAN = st.lists(st.tuples(st.lists(DEED, max_size=5), st.booleans(), st.booleans()), max_size=6)


class _TakenBackError(Exception):
    pass


async def _do(kv: Any, model: dict[str, Any], deed: tuple[Any, ...]) -> None:
    match deed:
        case ("set", key, value):
            await kv.set(key, value)
            model[key] = value
        case ("if_absent", key, value):
            stored = await kv.set(key, value, if_absent=True)
            assert (stored is not None) == (key not in model)
            model.setdefault(key, value)
        case ("if_version", key, is_right, value):
            entry = await kv.entry(key)
            assert (entry is None) == (key not in model)
            version = entry.version + (not is_right) if entry is not None else 1
            stored = await kv.set(key, value, if_version=version)
            assert (stored is not None) == (entry is not None and is_right)
            if stored is not None:
                model[key] = value
        case ("set_many", pairs):
            await kv.set_many(pairs)
            model.update(pairs)
        case ("delete", key):
            assert await kv.delete(key) == (key in model)
            model.pop(key, None)
        case ("incr", key, by) if key not in model or type(model[key]) is int:
            model[key] = model.get(key, 0) + by
            assert await kv.incr(key, by) == model[key]
        case ("list", prefix, limit):
            wanted = sorted(key for key in model if key.startswith(prefix))
            assert await kv.list(prefix, limit=limit) == wanted[:limit]
        case _:
            pass
    assert await kv.get_many(KEYS) == model


async def test_keys_are_what_a_dict_would_be(start: Start) -> None:
    app = App("model")
    async with start(app, workers=False):
        loop = asyncio.get_running_loop()

        async def check(plan: list[tuple[list[tuple[Any, ...]], bool, bool]]) -> None:
            model: dict[str, Any] = {}
            for key in KEYS:
                await app.ctx.kv.delete(key)
            for deeds, together, taken_back in plan:
                if not together:
                    for deed in deeds:
                        await _do(app.ctx.kv, model, deed)
                    continue
                inside = dict(model)
                try:
                    async with app.transaction() as ctx:
                        await _all(ctx, inside, deeds)
                        if taken_back:
                            raise _TakenBackError
                    model = inside
                except _TakenBackError:
                    pass
                assert await app.ctx.kv.get_many(KEYS) == model

        async def _all(ctx: Ctx, model: dict[str, Any], deeds: list[tuple[Any, ...]]) -> None:
            for deed in deeds:
                await _do(ctx.kv, model, deed)

        @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
        @given(PLAN)
        def compare(plan: list[tuple[list[tuple[Any, ...]], bool, bool]]) -> None:
            asyncio.run_coroutine_threadsafe(check(plan), loop).result(timeout=20)

        await asyncio.to_thread(compare)
