"""Random workflows under a storm: each is run twice, undisturbed and with connections that die at random statements of
its activations. Both must give the same and have done the same.

    python -m tests.faults.storm --cases 5000         # as many as wanted, from --seed on
    python -m tests.faults.storm --seed 4711          # the one case again, with its program
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from chimpbase import Ctx, errors
from chimpbase._pg import lexer
from chimpbase.testing import Rehearsal, rehearse
from tests.faults.flows import HOUR, Maker, Node, build

_STRIKE, _MOST_STRIKES = 0.12, 8
_BATCH = 50
#: Statements that are no part of an activation.
_OTHERS = ("jobs.", "schedules.", "rehearsal.", "gates.")


@dataclass
class Case:
    """One program, and its two runs."""

    seed: int
    program: Node
    signals: list[tuple[int, str, int]]
    cancelled_after: int | None
    strikes: int = 0
    random: Random = field(default_factory=Random)

    @property
    def runs(self) -> tuple[str, str]:
        """The undisturbed run, and the other."""
        return f"{self.seed}/calm", f"{self.seed}/storm"


def case(seed: int) -> Case:
    """The case of a seed."""
    maker = Maker(seed)
    program = maker.program()
    cancelled_after = maker.random.randint(0, 3) if maker.random.random() < 0.1 else None
    return Case(seed, program, maker.signals, cancelled_after, random=Random(f"storm {seed}"))


class Storm:
    """A statement hook: connections die before or after statements of the activations of stormy runs."""

    def __init__(self, cases: dict[int, Case]) -> None:
        self._cases = cases
        self._case: Case | None = None
        self._dies = False

    def before(self, sql: str, args: Sequence[object]) -> None:
        """See `StatementHook`."""
        label = lexer.label(sql)
        if label == "runs.load_journals":  # the one activation that is run now
            runs = next((arg for arg in reversed(args) if isinstance(arg, list)), [0])
            self._case = self._cases.get(int(runs[0]))
        elif label.startswith(_OTHERS):  # that activation is over
            self._case = None
        self._dies = False
        here, one = self._case, label.startswith("runs.") or label == "`commit`" or "effect" in sql
        if here is None or not one or here.strikes >= _MOST_STRIKES or here.random.random() >= _STRIKE:
            return
        here.strikes += 1
        if here.random.random() < 0.5:
            raise ConnectionResetError("a rehearsed crash")
        self._dies = True

    def after(self, sql: str, error: BaseException | None) -> None:
        """See `StatementHook`."""
        if self._dies and error is None:
            self._dies = False
            raise ConnectionResetError("a rehearsed crash, after the fact")


async def weather(seeds: Iterable[int]) -> list[str]:
    """Run the cases of these seeds on one database; what is wrong with each that failed."""
    cases = [case(seed) for seed in seeds]
    async with rehearse(build()) as t:
        async with t.transaction() as ctx:
            await ctx.db.execute("create table effect (run text, node int)")
        await t.advance(_until_half_past(await t.now()))
        async with t.transaction() as ctx:
            for one in cases:
                for run in one.runs:
                    await ctx.workflow.start("flow", one.program, id=run)
            rows = await ctx.db.fetch("select number, id from chimpbase.run")
        numbers = {row["id"]: row["number"] for row in rows}
        t._runtime.listen(Storm({numbers[one.runs[1]]: one for one in cases}))  # type: ignore[arg-type]
        try:
            for hour in range(6):
                await _send(t, cases, hour)
                await t.advance(HOUR, every_occurrence=False)
            await t.advance(timedelta(days=3), every_occurrence=False)
        finally:
            t._runtime.listen(None)
        async with t.transaction() as ctx:
            return [wrong for one in cases if (wrong := await compare(ctx, one))]


async def _send(t: Rehearsal, cases: list[Case], hour: int) -> None:
    for one in cases:
        due = [(name, payload) for at, name, payload in one.signals if at == hour]
        for run in one.runs:
            with suppress(errors.WrongState):  # it has ended before
                async with t.transaction() as ctx:
                    for name, payload in due:
                        await ctx.workflow.signal(run, name, payload)
            with suppress(errors.WrongState):
                if one.cancelled_after == hour:
                    async with t.transaction() as ctx:
                        await ctx.workflow.cancel(run, "enough")


async def compare(ctx: Ctx, one: Case) -> str | None:
    """What the two runs of a case have not in common; None when both ended alike."""
    calm, storm = [await _told(ctx, run) for run in one.runs]
    if calm == storm and calm["status"] in ("completed", "failed", "cancelled"):
        return None
    return (
        f"seed {one.seed} ({one.strikes} strikes): undisturbed {json.dumps(calm)}, "
        f"and with the storm {json.dumps(storm)}; program {json.dumps(one.program)}, "
        f"signals {one.signals}, cancelled after {one.cancelled_after}. "
        f"Again: python -m tests.faults.storm --seed {one.seed}"
    )


async def _told(ctx: Ctx, run: str) -> dict[str, Any]:
    """How a run ended, and all that it and its children have done."""
    found = await ctx.workflow.get(run)
    effects = await ctx.db.fetch(
        "select replace(run, $1, '') as run, node, count(*) as times from effect "
        "where run = $1 or run like $1 || '/%' group by run, node order by 1, 2",
        run,
    )
    said = await ctx.db.fetch(
        "select payload from chimpbase.entry where key = $1 or key like $1 || '/%' order by payload", run
    )
    keys = await ctx.db.fetch(
        "select replace(r.id, $1, '') || ' ' || key as key "
        "from chimpbase.step join chimpbase.run r on number = run "
        "where (r.id = $1 or r.id like $1 || '/%') and kind <> 'cancelled' order by 1",
        run,
    )
    return {
        "status": found.status,
        "output": found.output,
        "error": (found.error or "").replace(run, ""),
        "state": found.state,
        "effects": [[row["run"], row["node"], row["times"]] for row in effects],
        "said": [row["payload"] for row in said],
        "keys": [row["key"].replace(run, "") for row in keys],
    }


def _until_half_past(now: Any) -> timedelta:
    return (now.replace(minute=30, second=0, microsecond=0) - now) % HOUR


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="the first case, or the only one")
    parser.add_argument("--cases", type=int, default=None, help="how many; default 300, or 1 with --seed")
    options = parser.parse_args()
    first = 1 if options.seed is None else options.seed
    count = options.cases or (300 if options.seed is None else 1)
    logging.getLogger("chimpbase").setLevel(logging.CRITICAL)
    if count == 1:
        print(json.dumps(case(first).program))
    bad = 0
    for start in range(first, first + count, _BATCH):
        wrong = asyncio.run(weather(range(start, min(start + _BATCH, first + count))))
        for sentence in wrong:
            print(sentence, flush=True)
        bad += len(wrong)
    print(f"{count} cases from seed {first}, {bad} went another way")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(_main())
