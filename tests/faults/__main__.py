"""The fault suite: `python -m tests.faults`, or `make faults`.

Prints a line for each fault, and what is wrong with its seed and its smallest history. The exit code is the verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from time import monotonic

import asyncpg

from chimpbase._pg.embedded import EmbeddedServer
from tests.faults import points
from tests.faults.battle import Result, as_table, fight, pairs
from tests.faults.chaos import FAULTS
from tests.faults.rehearse import play
from tests.faults.trials import TRIALS, hold

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
_MARK = "<!-- the last run -->"
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "300"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", help="faults by number, such as F1,F5+F8,F15,four,points")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--size", type=float, default=1.0, help="1 is 20,000 jobs and ten minutes; 0.1 is a tenth")
    parser.add_argument("--hours", type=float, help="go on for so long, with another seed each round, and all points")
    parser.add_argument("--pairs", type=int, default=6, help="random pairs of faults")
    parser.add_argument("--write", action="store_true", help="put the table into docs/faults.md")
    return parser.parse_args()


#: What each fault gets of the 20,000 jobs, and how many seconds.
_SHARES: dict[str, tuple[int, float]] = {
    "F1": (6000, 110),
    "F5": (2000, 70),
    "four": (2000, 30),
    "F6": (300, 18),
    "F21": (3000, 0),
    "F13": (300, 9),
}


def _share(number: str, size: float) -> tuple[int, float]:
    jobs, seconds = _SHARES.get(number, (500, 12))
    return max(40, int(jobs * size)), seconds if seconds <= 12 else max(8.0, seconds * size)


async def rounds(options: argparse.Namespace, directory: Path) -> AsyncIterator[Result]:
    """One round, or as many as fit into the hours."""
    began, seed = monotonic(), options.seed
    server = await EmbeddedServer.start(directory / "data", settings={"max_connections": "300"})
    try:
        while True:
            for number in _chosen(options, seed):
                if number == "points":
                    yield await play_points(directory, seed, None if options.hours else int(150 * options.size))
                    continue
                if number == "seeds":
                    yield await play_seeds(directory, seed, max(5, int(200 * options.size)))
                    continue
                jobs, seconds = _share(number.split("+", maxsplit=1)[0], options.size)
                if number in TRIALS:
                    yield await hold(number, server, directory, seed, jobs, seconds)
                else:
                    yield await fight(
                        number.split("+"), server=server, directory=directory, seed=seed, jobs=jobs, seconds=seconds
                    )
            if not options.hours or monotonic() - began > options.hours * 3600:
                return
            seed += 1
    finally:
        await server.stop()


def _chosen(options: argparse.Namespace, seed: int) -> Sequence[str]:
    if options.only:
        return options.only.split(",")
    together = ["+".join(pair) for pair in pairs(options.pairs, seed=seed)]
    return ["points", "seeds", *FAULTS, *TRIALS, *together]


async def play_points(directory: Path, seed: int, most: int | None) -> Result:
    """Crash points: all, or so many of them."""
    began = monotonic()
    server = await EmbeddedServer.start(directory / f"points-{seed}", settings=_FAST)
    theatre = points.Theatre(server.dsn)
    try:
        await theatre.open()
        every = await points.enumerate_points(theatre)
        chosen = points.choose(every, most, seed=seed)
        result = Result(number="points", name=f"crash points ({len(chosen)} of {len(every)})", seed=seed)
        for point in chosen:
            result.wrong += [f"seed {seed}, {wrong}" for wrong in await points.play(theatre, point)]
            kind = "kills" if point.fault == "kill" else "resets"
            result.hits[kind] = result.hits.get(kind, 0) + 1
        await theatre.close()
    finally:
        await server.stop()
    result.seconds = monotonic() - began
    return result


async def play_seeds(directory: Path, first: int, seeds: int) -> Result:
    """Interleavings of three runtimes, a seed each."""
    began = monotonic()
    result = Result(number="seeds", name=f"interleavings ({seeds} seeds)", seed=first)
    server = await EmbeddedServer.start(directory / f"seeds-{first}", settings=_FAST)
    try:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("create table ledger (who text, note text, at timestamptz default clock_timestamp())")
        for seed in range(first, first + seeds):
            await connection.execute("drop schema if exists chimpbase cascade; truncate ledger")
            # in a thread: it brings an event loop of its own
            played = await asyncio.to_thread(play, server.dsn, directory, seed)
            result.hits["statements"] = result.hits.get("statements", 0) + len(played.trace)
            result.wrong += [f"seed {seed}, {broken}\n    " + "\n    ".join(played.trace) for broken in played.broken]
        await connection.close()
    finally:
        await server.stop()
    result.seconds = monotonic() - began
    return result


async def main(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run, print and perhaps write down; the exit code."""
    logging.getLogger("chimpbase").setLevel(logging.CRITICAL)
    results: list[Result] = []
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # noqa: PTH101  # a pooler under another account reads its configuration here
        directory = Path(name)
        async for result in rounds(options, directory):
            results.append(result)
            say(as_table([result], head=len(results) == 1))
            for wrong in result.wrong[:10]:
                say(f"  {wrong}")
    broken = [result for result in results if result.wrong]
    jobs = sum(result.jobs for result in results)
    kills = sum(result.hits.get("kills", 0) for result in results)
    crashes = sum(result.hits.get("crashes", 0) for result in results)
    summary = (
        f"{jobs:,} jobs, {kills} kills of processes, {crashes} crashes of PostgreSQL, "
        f"{len(results)} fights, {len(broken)} broken, {monotonic() - began:.0f} s."
    )
    say(summary)
    if options.write:
        head, mark, _ = PAGE.read_text().partition(_MARK)
        PAGE.write_text(f"{head}{mark}\n\n{summary}\n\n{as_table(results)}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_arguments(), lambda line: print(line, flush=True))))
