"""Each key is linearizable: what concurrent callers saw could have happened one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple

import pytest

from chimpbase import App
from chimpbase._app.kv_client import KvClient
from tests.running import Start

pytestmark = pytest.mark.anyio

VERBS = ["set", "set", "get", "get", "get", "add", "delete", "swap"]


class Done(NamedTuple):
    began: float
    ended: float
    verb: str
    given: Any
    answer: Any


def step(value: int | None, done: Done) -> tuple[bool, int | None]:
    """Whether this answer fits a key that holds this value, and what it holds afterwards."""
    match done.verb:
        case "set":
            return True, done.given
        case "get":
            return done.answer == value, value
        case "add":
            return done.answer is (value is None), done.given if value is None else value
        case "swap":
            old, new = done.given
            return done.answer is (value == old), new if value == old else value
        case _:
            return done.answer is (value is not None), None


def is_linearizable(history: Sequence[Done]) -> bool:
    """The search of Wing and Gong, over sets of what has happened already."""
    everything = (1 << len(history)) - 1

    @cache
    def search(happened: int, value: int | None) -> bool:
        if happened == everything:
            return True
        waiting = [n for n in range(len(history)) if not happened >> n & 1]
        first_end = min(history[n].ended for n in waiting)
        for n in waiting:
            if history[n].began <= first_end:
                fits, after = step(value, history[n])
                if fits and search(happened | 1 << n, after):
                    return True
        return False

    return search(0, None)


def test_the_checker_knows_a_stale_read() -> None:
    written = [Done(0, 1, "set", 1, None), Done(2, 3, "set", 2, None)]
    assert is_linearizable([*written, Done(4, 5, "get", None, 2)])
    assert not is_linearizable([*written, Done(4, 5, "get", None, 1)])
    assert is_linearizable([*written, Done(2.5, 5, "get", None, 1)])
    assert not is_linearizable([*written, Done(4, 5, "add", 3, True)])


class Round:
    """Six callers on one key, in and out of transactions; what each of them did, and when."""

    def __init__(self, app: App, key: str, random: Random) -> None:
        self._app, self._key, self._random = app, key, random
        self._value = 0
        self._versions: dict[int, int] = {}
        self.history: list[Done] = []

    async def client(self) -> None:
        clock = asyncio.get_running_loop().time
        for _ in range(6):
            verb = self._random.choice(VERBS)
            verb = "delete" if verb == "swap" and not self._versions else verb
            began = clock()
            if self._random.random() < 0.3:
                async with self._app.transaction() as ctx:
                    given, answer = await self._call(ctx.kv, verb)
            else:
                given, answer = await self._call(self._app.ctx.kv, verb)
            self.history.append(Done(began, clock(), verb, given, answer))

    async def _call(self, kv: KvClient[Any], verb: str) -> tuple[Any, Any]:
        self._value += 1
        value = self._value
        match verb:
            case "get":
                return None, await kv.get(self._key)
            case "delete":
                return None, await kv.delete(self._key)
            case "set":
                self._versions[value] = await kv.set(self._key, value)
                return value, None
            case "add":
                return value, self._note(value, await kv.set(self._key, value, if_absent=True))
            case _:
                old = self._random.choice(sorted(self._versions))
                stored = await kv.set(self._key, value, if_version=self._versions[old])
                return (old, value), self._note(value, stored)

    def _note(self, value: int, version: int | None) -> bool:
        if version is not None:
            self._versions[value] = version
        return version is not None


async def test_concurrent_histories_are_linearizable(start: Start) -> None:
    app, random = App("history"), Random(7)
    async with start(app, workers=False):
        for number in range(25):
            one = Round(app, f"key{number}", random)
            await asyncio.gather(*(one.client() for _ in range(6)))
            assert is_linearizable(one.history), sorted(one.history)
