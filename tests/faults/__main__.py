"""The fault suite: `python -m tests.faults`, or `make faults`.

Prints a line for each piece as it ends, what is wrong with its seed and its smallest history, and a table in the end.
The exit code is the verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from time import monotonic

from tests.faults.battle import Result, pairs
from tests.faults.chaos import FAULTS
from tests.faults.lane import Work
from tests.faults.lanes import Lanes, tell_of
from tests.faults.page import write_between
from tests.faults.report import as_short_table, as_table, joined, one_line, summary_of, too_late
from tests.faults.trials import TRIALS

_ROOT = Path(__file__).resolve().parents[2]


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", help="faults by number, such as F1,F5+F8,F15,four,points")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--size", type=float, default=1.0, help="1 is 20,000 jobs and ten minutes; 0.1 is a tenth")
    parser.add_argument("--hours", type=float, help="go on for so long, with another seed each round, and all points")
    parser.add_argument("--pairs", type=int, default=6, help="random pairs of faults")
    parser.add_argument("--lanes", type=int, default=4, help="so many pieces side by side, each on a server of its own")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/faults.md and README.md")
    return parser.parse_args(given)


#: What each fault gets of the 20,000 jobs, and how many seconds. Those in two halves fight on two servers.
_SHARES: dict[str, tuple[int, float]] = {
    "F1": (6000, 120),
    "F5": (2700, 150),
    "four": (2000, 30),
    "F6": (300, 18),
    "F21": (3000, 0),
    "F13": (300, 9),
}


def _share(number: str, size: float) -> tuple[int, float]:
    jobs, seconds = _SHARES.get(number, (500, 12))
    return max(40, int(jobs * size)), seconds if seconds <= 12 else max(8.0, seconds * size)


def plan(options: argparse.Namespace, seed: int) -> list[Work]:
    """The pieces of one round, the longest first."""
    found: list[Work] = []
    for number in _chosen(options, seed):
        if number in {"points", "seeds"}:
            parts = 5 if number == "points" else 3
            most = None if options.hours and number == "points" else int(_MOST[number] * options.size)
            most = most and max(most, parts)
            found += [Work(number=number, seed=seed, most=most, part=part, parts=parts) for part in range(parts)]
        else:
            jobs, seconds = _share(number, options.size)
            parts = _PARTS.get(number, 1)
            found += [
                Work(number=number, seed=seed, jobs=jobs // parts, seconds=seconds / parts, part=part, parts=parts)
                for part in range(parts)
            ]
    return sorted(found, key=_weight, reverse=True)


_PARTS = {"F1": 2, "F5": 3}
#: How many crash points and seeds.
_MOST = {"points": 150, "seeds": 80}


def _weight(work: Work) -> float:
    """Which of two pieces takes longer, more or less."""
    return 1000 if work.most is None and work.number == "points" else work.seconds + (work.most or 0) / work.parts


def _chosen(options: argparse.Namespace, seed: int) -> Sequence[str]:
    if options.only:
        return options.only.split(",")
    together = ["+".join(pair) for pair in pairs(options.pairs, seed=seed)]
    return ["points", "seeds", *FAULTS, *TRIALS, *together]


async def rounds(options: argparse.Namespace, say: Callable[[str], None]) -> AsyncGenerator[Result]:
    """One round, or as many as fit into the hours."""
    began, seed = monotonic(), options.seed
    while True:
        lanes = Lanes(options.lanes)
        teller = asyncio.create_task(tell_of(lanes, say, every_s=20))
        try:
            async with aclosing(lanes.results(plan(options, seed))) as results:
                async for result in results:
                    yield result
        finally:
            teller.cancel()
        if not options.hours or monotonic() - began > options.hours * 3600:
            return
        seed += 1


async def main(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run, print and perhaps write down; the exit code."""
    began, found = monotonic(), list[Result]()
    async with aclosing(rounds(options, say)) as results:
        async for result in results:
            found.append(result)
            say(f"{monotonic() - began:5.0f} s  {one_line(result)}")
            for wrong in result.wrong[:10]:
                say(f"  {wrong}")
    order = list(_chosen(options, options.seed))
    table = joined(found, order)
    late = too_late(table)
    summary = summary_of(table, monotonic() - began)
    say("\n".join((as_table(table), "", summary, *late)))
    if options.write:
        write_between(_ROOT / "docs" / "faults.md", "the last run", f"{summary}\n\n{as_table(table)}")
        size = f"Seed {options.seed}, size {options.size:g}, {monotonic() - began:.0f} s on {os.cpu_count()} cores."
        write_between(_ROOT / "README.md", "the faults", f"{as_short_table(table)}\n\n{size}")
    return 1 if late or any(result.wrong for result in table) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_arguments(), lambda line: print(line, flush=True))))
