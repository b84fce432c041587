"""Keys: single gets and sets of 1, 64 and 256 callers at once, beside Redis. Every set is read back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from bench.group import Group
from bench.peers.environments import HERE, EnvironmentLacking, python_of
from bench.redis_server import ALWAYS, EVERY_SECOND, REDIS, redis, version
from bench.state_limits import KEYS
from bench.timed import rate_of
from chimpbase import KV, App

CALLERS = (1, 64, 256)
_TARGETS = {("set", 64): 40_000, ("get", 64): 80_000}
durable = KV("bench", int)
_Work = Callable[[int], Awaitable[object]]


class Keys:
    """The part of the group."""

    def __init__(self, group: Group) -> None:
        self.group, self.rates = group, dict[str, float]()

    async def ours(self) -> None:
        """Durable sets: each is on the disk when its call returns."""
        group, stand = self.group, self.group.stand
        seconds = group.sizes.seconds(2, least=0.7)
        app, last = App("bench", register=[durable]), dict[str, int]()
        async with stand.running(app, workers=False):
            kv = app.ctx.kv(durable)

            async def put(number: int) -> None:
                key = f"key{number % KEYS:05}"
                last[key] = number
                await kv.set(key, number)

            async def look(number: int) -> None:
                await kv.get(f"key{number % KEYS:05}")

            verbs: list[tuple[str, _Work]] = [("set", put), ("get", look)]
            for verb, work in verbs:
                for callers in CALLERS:
                    self.rates[f"{verb} {callers}"] = rate = (await rate_of(work, callers=callers, seconds=seconds))[0]
                    limit = group.limits[verb] if callers > 1 else None
                    group.add(_title(verb, callers), rate, limit=limit, target=_TARGETS.get((verb, callers)))
            if await kv.get_many(last) != last:
                raise RuntimeError("a set was lost")

    async def redis(self) -> None:
        """The same through redis-py, with either promise."""
        group = self.group
        if REDIS is None:
            group.console.print("      redis-server is not installed: Redis is left out")
            return
        try:
            python = python_of("redis")
        except EnvironmentLacking as lacking:
            group.console.print(f"      Redis is left out: {lacking}")
            return
        called = f"Redis {await version()}"
        for appendfsync in (ALWAYS, EVERY_SECOND):
            async with redis(appendfsync) as url:
                told = await _run(
                    python,
                    str(HERE / "redis_kv_peer.py"),
                    url,
                    str(group.sizes.seconds(2, least=0.7)),
                    *map(str, CALLERS),
                )
            for name, rate in told.items():
                verb, callers = name.split()
                title = f"{_title(verb, int(callers))}: {called}, appendfsync {appendfsync}"
                group.add(title, rate)
                group.add(f"{title}: chimpbase in times of it", self.rates[name] / rate, "times")


def _title(verb: str, callers: int) -> str:
    return f"key-value {verb}, {callers} caller{'s' if callers > 1 else ''}"


async def _run(*command: str) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"Redis failed:\n{err.decode()[-2000:]}")
    return json.loads(out)
