"""A battle: faults, alone or together, while jobs flow; afterwards the books are judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from chimpbase._pg.embedded import EmbeddedServer
from tests.faults.arena import GONE, Arena, arena_of
from tests.faults.chaos import FAULTS, Fault
from tests.waiting import passing


@dataclass(kw_only=True)
class Result:
    """One line of the table."""

    number: str
    name: str
    seed: int = 0
    jobs: int = 0
    hits: dict[str, int] = field(default_factory=dict[str, int])
    wrong: list[str] = field(default_factory=list[str])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0
    resumed_s: list[float] = field(default_factory=list[float])
    taken_over_s: list[float] = field(default_factory=list[float])
    skipped: str = ""
    done: int = 0
    of: int = 0

    def hit(self, what: str, times: int = 1) -> None:
        self.hits[what] = self.hits.get(what, 0) + times

    @property
    def verdict(self) -> str:
        if self.skipped:
            return f"skipped: {self.skipped}"
        return "holds" if not self.wrong else "BROKEN"


async def fight(
    numbers: Sequence[str],
    *,
    server: EmbeddedServer,
    directory: Path,
    seed: int,
    jobs: int,
    seconds: float,
    size: int = 4,
) -> Result:
    """Let these faults happen together while so many jobs flow."""
    faults = [FAULTS[number] for number in numbers]
    name = " and ".join(fault.name for fault in faults)
    result = Result(number="+".join(numbers), name=name, seed=seed, jobs=jobs)
    if excuse := next((why for fault in faults if (why := fault.excuse())), ""):
        result.skipped = excuse
        return result
    began = monotonic()
    network = next((fault.network for fault in faults if fault.network), "")
    settings = {"notify": False} if network == "pgbouncer" else {}
    async with arena_of(server, directory, seed=seed, size=size, seconds=seconds, network=network, **settings) as arena:
        await arena.muster()
        deeds = [asyncio.create_task(_persist(fault, arena)) for fault in faults]
        if any(fault.prepares for fault in faults):
            await asyncio.wait_for(arena.prepared.wait(), 60)
        producer = asyncio.create_task(arena.produce(jobs))
        await asyncio.wait({producer, *deeds}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({producer}, timeout=seconds + 60)
        arena.over.set()
        ended = await asyncio.gather(producer, *deeds, return_exceptions=True)
        result.wrong += [
            f"the suite itself: {type(one).__name__}: {one}" for one in ended if isinstance(one, Exception)
        ]
        while len(arena.alive) < 2:
            await arena.recruit()
        judged = await judge(arena, jobs)
        deserters = [member.log.name for member in arena.fleet.members if not member.alive and not member.was_told]
        if deserters:
            judged.wrong.append(f"processes ended by themselves: {deserters}")
        if not sum(judged.hits.values()):
            judged.wrong.append("the fault never happened")
    judged.number, judged.name, judged.seed = result.number, result.name, seed
    judged.wrong = result.wrong + judged.wrong
    judged.seconds = monotonic() - began
    return judged


async def _persist(fault: Fault, arena: Arena) -> None:
    """Go on with a fault whose own connection another fault has ended."""
    while not arena.over.is_set():
        try:
            await fault.deed(arena)
        except GONE:
            await passing(0.1)


async def judge(arena: Arena, jobs: int) -> Result:
    """Let everything come to its end, and judge the books."""
    result = Result(number="", name="", jobs=jobs)
    violations = await arena.settle()
    result.hits, result.resumed_s, result.taken_over_s = arena.hits, arena.resumed_s, arena.taken_over_s
    for violation in violations:
        result.counts[violation.kind] = result.counts.get(violation.kind, 0) + 1
    result.wrong = [f"seed {arena.seed}, {violation}" for violation in violations]
    return result


def pairs(n: int, *, seed: int) -> list[tuple[str, str]]:
    """So many pairs of faults that can happen together."""
    dice = random.Random(seed)
    able = [fault for fault in FAULTS.values() if not fault.excuse()]
    found: list[tuple[str, str]] = []
    while len(found) < n:
        one, two = dice.sample(able, 2)
        if _agree(one, two) and (one.number, two.number) not in found:
            found.append((one.number, two.number))
    return found


def _agree(one: Fault, two: Fault) -> bool:
    together = {one.network, two.network} - {""}
    # two that take the server or the whole fleet away leave nobody to fight
    alone = {"F5", "F6", "F16", "F19", "F23"}
    return len(together) <= 1 and not {one.number, two.number} <= alone
