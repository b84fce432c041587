"""Random workflows whose processes die: each is run twice, undisturbed, and by processes that get a SIGKILL after a
random number of statements, until all is done. Both must give the same and have done the same.

    python -m tests.faults.storm_kills --cases 500    # as many as wanted, from --seed on

Programs that wait for an hour or a message are left to `storm`, where time is the database's own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from chimpbase import App
from chimpbase._pg.embedded import EmbeddedServer
from tests.faults.flow_fleet import app as flows
from tests.faults.herd import Herd
from tests.faults.storm import Case, case, compare
from tests.running import the_value
from tests.stories.fleet import Member
from tests.waiting import until

#: A flaky step counts in the memory of its process, which its successor cannot know.
_LEFT_OUT = {"sleep", "wait", "select", "patient", "flaky"}
_MEMBERS, _BATCH = 3, 100
#: A life lasts so many on average. Some must be far longer: ten transactions at a time have thirty before any commits.
_STATEMENTS = 30
_TABLES = "create table effect (run text, node int)"


@dataclass
class Toll:
    """What was wrong, and how many processes died."""

    wrong: list[str]
    kills: int


def cases_from(first: int) -> Iterator[Case]:
    """The cases from this seed on whose programs need no time, no message and no memory."""
    for seed in itertools.count(first):
        one = case(seed)
        if one.cancelled_after is None and not _LEFT_OUT & set(_words(one.program)):
            yield one


async def slaughter(dsn: str, cases: Iterable[Case], *, seed: int, directory: Path) -> Toll:
    """Run these cases on an empty database."""
    cases, herd = list(cases), Herd("tests.faults.flow_fleet", dsn, directory)
    outside = await asyncpg.connect(dsn)
    try:
        await outside.execute(_TABLES)
        async with flows.running(database_url=dsn, workers=False, project=directory):
            await _start(flows, [one.runs[0] for one in cases], cases)
            calm = await herd.start()
            # a run that often is in the wrong place at the wrong time is not what this is about
            await outside.execute("update chimpbase.queue set max_crashes = 1000")
            await until(lambda: _all_ended(outside), deadline_s=60)
            await calm.stop()
            await _start(flows, [one.runs[1] for one in cases], cases)
            kills = await _kill_until_done(herd, outside, Random(f"kills {seed}"))
            async with flows.transaction() as ctx:
                wrong = [sentence for one in cases if (sentence := await compare(ctx, one))]
        return Toll(wrong, kills)
    finally:
        await herd.end()
        await outside.close()


async def _start(app: App, runs: list[str], cases: list[Case]) -> None:
    async with app.transaction() as ctx:
        for run, one in zip(runs, cases, strict=True):
            await ctx.workflow.start("flow", one.program, id=run)


async def _kill_until_done(herd: Herd, outside: asyncpg.Connection, dice: Random) -> int:
    """Let some work at a time; each kills itself after so many statements. How many did."""
    kills = 0

    async def reign(n: int) -> None:
        nonlocal kills
        while not await _all_ended(outside_of[n]):
            order = {"die_after": 1 + int(dice.expovariate(1 / _STATEMENTS)), "die_in": dice.choice(["engine", "app"])}
            # every other one pretends to be on another machine, so that its runs wait for the end of its lease
            member = await herd.launch(host=f"host {n}" if n % 2 else None, **order)
            kills += await _died(member, outside_of[n])
            await member.kill()

    outside_of = [await asyncpg.connect(herd.dsn) for _ in range(_MEMBERS)]
    try:
        await asyncio.gather(*(reign(n) for n in range(_MEMBERS)))
    finally:
        for connection in outside_of:
            await connection.close()
    return kills


async def _died(member: Member, outside: asyncpg.Connection) -> bool:
    """Whether it died before all was done."""
    await until(lambda: not member.alive or _all_ended(outside), deadline_s=60)
    return not member.alive


async def _all_ended(outside: asyncpg.Connection) -> bool:
    return not await the_value(outside, "select exists (select from chimpbase.run where finished_at is null)")


def _words(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for one in node:
            yield from _words(one)
    elif isinstance(node, str):
        yield node


async def _some(cases: list[Case], seed: int) -> Toll:
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        server = await EmbeddedServer.start(Path(name) / "data")
        try:
            return await slaughter(server.dsn, cases, seed=seed, directory=Path(name))
        finally:
            await server.stop()


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm_kills", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first case")
    parser.add_argument("--cases", type=int, default=100, help="how many; default 100")
    options = parser.parse_args()
    logging.getLogger("chimpbase").setLevel(logging.CRITICAL)
    found, bad, kills = cases_from(options.seed), 0, 0
    for start in range(0, options.cases, _BATCH):
        cases = list(itertools.islice(found, min(_BATCH, options.cases - start)))
        toll = asyncio.run(_some(cases, options.seed + start))
        for sentence in toll.wrong:
            print(sentence, flush=True)
        bad, kills = bad + len(toll.wrong), kills + toll.kills
    print(json.dumps({"cases": options.cases, "from seed": options.seed, "kills": kills, "went another way": bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(_main())
