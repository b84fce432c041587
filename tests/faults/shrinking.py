"""Shrinking: the shortest way found, within a time, to what an interleaving broke.

What went is left out, all of a kind at first, then half of it, then less; the rest keeps its order, and what is left
out goes as the plain policy has it. `python -m tests.faults.shrinking --seed N` plays a seed and shrinks it if it
fails, and with `--script` it plays what a failure printed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic

import psycopg

from chimpbase._pg.embedded import EmbeddedServer
from tests.faults.rehearse import Played, Script, play

_FAST = {"fsync": "off", "synchronous_commit": "off"}


def clean(dsn: str) -> str:
    """The database as before the first play."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop schema if exists chimpbase cascade; drop table if exists ledger")
        connection.execute("create table ledger (who text, note text, at timestamptz default clock_timestamp())")
    return dsn


def shrink(failed: Played, again: Callable[[Sequence[str]], Played], *, within_s: float) -> Played:
    """The shortest play found that breaks the rule that `failed` broke; `failed` when there is none in that time.

    `again` plays what is wanted.
    """
    best, wanted, deadline = failed, list(failed.order), monotonic() + within_s
    for shorter in _shorter(wanted):
        if monotonic() > deadline:
            break
        played = again(shorter)
        if rule(played) == rule(failed) and len(played.trace) <= len(best.trace):
            best, wanted[:] = played, shorter
    return best


def _shorter(wanted: list[str]) -> Iterator[list[str]]:
    """What to try, each time from what is wanted by then."""
    for kind in ("t", "d", "2 ", "1 ", "0 "):
        if any(one.startswith(kind) for one in wanted):
            yield [one for one in wanted if not one.startswith(kind)]
    size = len(wanted) // 2
    while size:
        # from the end: what goes last decides, and the less there is before it the better
        end = len(wanted)
        while end > 0:
            yield [*wanted[: max(0, end - size)], *wanted[end:]]
            end -= size
        size //= 2


def explained(dsn: str, directory: Path, failed: Played, *, within_s: float) -> str:
    """A failure for people, played again and again until it is short or the time is over."""

    def again(wanted: Sequence[str]) -> Played:
        return play(clean(dsn), directory, failed.seed, wanted=wanted)

    return told(failed, shrink(failed, again, within_s=within_s))


def told(failed: Played, shortest: Played) -> str:
    """A failure for people: what broke, the shortest way to it, and how to see it again."""
    decisions = len(_decisions(shortest.script))
    steps = "\n".join(f"    {step}" for step in shortest.trace)
    return (
        f"seed {failed.seed}, {failed.broken[0]}\nIt took {len(failed.trace)} statements and "
        f"{len(_decisions(failed.script))} decisions; shrunk, {len(shortest.trace)} and {decisions}:\n{steps}\n"
        f"It broke {shortest.broken[0]}\n"
        f"again: python -m tests.faults.shrinking --seed {failed.seed} --script {words(shortest.script)!r}"
    )


def words(script: Script) -> str:
    """A script as one line: `3:d0,2 17:t`."""
    return " ".join(f"{gone}:{','.join(script[gone])}" for gone in sorted(script))


def read(line: str) -> Script:
    """The script of a line."""
    parts = (part.partition(":") for part in line.split())
    return {int(gone): decided.split(",") for gone, _, decided in parts}


def rule(played: Played) -> str:
    """Which rule was broken first; empty for none."""
    if not played.broken:
        return ""
    first = played.broken[0]
    return "in the end" if first.startswith("in the end") else first.split(": ")[-2]


def _decisions(script: Script) -> list[tuple[int, str]]:
    return [(gone, word) for gone in sorted(script) for word in script[gone]]


async def _on_a_server(seed: int, script: Script | None, within_s: float) -> int:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        server = await EmbeddedServer.start(Path(name) / "data", settings=_FAST)
        try:
            return await asyncio.to_thread(_show, server.dsn, Path(name), seed, script, within_s)
        finally:
            await server.stop()


def _show(dsn: str, directory: Path, seed: int, script: Script | None, within_s: float) -> int:
    played = play(clean(dsn), directory, seed, script=script)
    if not played.broken:
        print("\n".join([*played.trace, "everything holds"]))
        return 0
    print(explained(dsn, directory, played, within_s=within_s))
    return 1


def main() -> int:
    """The entry of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.shrinking", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--script", default=None, help="what to decide, instead of what the seed decides")
    parser.add_argument("--seconds", type=float, default=60, help="how long to look for a shorter one")
    options = parser.parse_args()
    logging.getLogger("chimpbase").setLevel(logging.CRITICAL)
    script = None if options.script is None else read(options.script)
    return asyncio.run(_on_a_server(options.seed, script, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
