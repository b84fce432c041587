"""The queue engine against the raw limit of the same server, and against its peers, in one run.

    python bench/queue.py                     the workloads, a share of the raw limit each
    python bench/queue.py --flat --peers      also what must stay flat, and PgQueuer, Procrastinate and graphile-worker
    make bench                                all of it, written to bench/RESULTS.md

Starts a PostgreSQL of its own (fsync on, same cores), measures the raw limits before and after, and counts every job in
and out: a lost or doubled job fails the run. Ratios are what to read; absolute figures belong to the machine. The peers
run in rotation with our own drain, each in its fastest known configuration.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    # this file is called like a module of the standard library: its own folder must not be searched for imports
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import statistics
from datetime import UTC, datetime

import uvloop
from rich.console import Console

from bench.flat import Flat
from bench.report import Figure, Report, machine
from bench.stand import SERVER, Stand, stand
from bench.workloads import Workloads

_DRIFT = 0.15
_ROUNDS = 3
_RESULTS = Path(__file__).parent / "RESULTS.md"
_DRAIN = "drain no-op jobs, one process, one-day history"


async def main() -> int:
    """Run the suite and print its tables; the exit code."""
    options = _options()
    console, began = Console(), datetime.now(UTC)
    async with stand(options.postgres) as here:
        report, flat, peers = Report(), Report(), Report()
        work = Workloads(here, report, jobs=options.jobs, console=console)
        await work.prepare()
        console.print("raw limits")
        work.limits = before = await work.calibrate()
        for name, value in before.items():
            report.add(Figure(f"raw limit: {name}", value), console)
        console.print("workloads")
        await work.all()
        if options.peers:
            console.print("peers")
            await _compare(here, work, peers, options.jobs, console)
        if options.flat:
            console.print("what must stay flat")
            await Flat(here, flat, scale=options.scale, console=console).all()
        after = await work.calibrate()
        drift = max(abs(after[name] / before[name] - 1) for name in before)
        report.add(Figure("drift of the raw limits over the run", drift * 100, "%"), console)
        where = machine(here.version, SERVER)
    for one in (report, peers, flat):
        if one.figures:
            one.show(console)
    console.print(where)
    if drift > _DRIFT:
        console.print(
            f"[bold]The raw limits drifted by {drift:.0%}: the machine was not quiet; read no ratio from this.[/]"
        )
    if options.json:
        tables = {"queue": report.raw(), "peers": peers.raw(), "flat": flat.raw()}
        options.json.write_text(json.dumps({"argv": sys.argv, "machine": where, **tables}, indent=1))
    if options.results:
        _RESULTS.write_text(_page(began, where, options.jobs, drift, report, peers, flat))
    return 0


async def _compare(here: Stand, work: Workloads, peers: Report, jobs: int, console: Console) -> None:
    from bench.peers.rotation import prepare, run

    found = prepare()
    rounds: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in found}
    ours: list[float] = []
    for turn in range(_ROUNDS):
        for peer in found:
            rounds[peer.name].append(await run(peer, here, jobs=jobs, turn=turn))
            console.print(f"  {peer.name}, round {turn + 1}: {rounds[peer.name][-1]}", highlight=False)
        spare = Workloads(here, Report(), jobs=jobs, console=Console(quiet=True))
        spare.limits = work.limits
        await spare.drain(history=True)
        ours.append(spare.report.value(_DRAIN))
    mine = {
        "drain": statistics.median(ours),
        "bulk": work.report.value("enqueue_many in one call"),
        "single": work.report.value("enqueue one at a time, 50 callers"),
    }
    titles = {"drain": "drain", "bulk": "bulk enqueue", "single": "enqueue one at a time, 50 callers"}
    for kind, title in titles.items():
        peers.add(Figure(f"{title}: chimpbase", mine[kind]), console)
        for name, results in rounds.items():
            median = statistics.median(result[kind] for result in results)
            target = 2.0 if kind == "drain" and name.startswith("graphile") else None
            peers.add(Figure(f"{title}: {name}", median), console)
            peers.add(Figure(f"{title}: chimpbase / {name}", mine[kind] / median, "times", target=target), console)


def _page(began: datetime, where: str, jobs: int, drift: float, report: Report, peers: Report, flat: Report) -> str:
    parts = [
        "# Results",
        "What is missed, and why: see [README.md](README.md).",
        f"Written by `python bench/queue.py {' '.join(sys.argv[1:])}` on {began:%Y-%m-%d}. {jobs:,} jobs; {where}.",
        f"The raw limits drifted by {drift:.0%} over the run"
        + (
            ": more than 15 %, so the machine was not quiet and the ratios are worth little." if drift > _DRIFT else "."
        ),
        "A raw limit is the same statements in a bare loop on the same tables, fenced, without the engine.",
        "Ratios are what to read: the absolute figures belong to the machine.",
        "## The queue",
        report.markdown(),
    ]
    if peers.figures:
        parts += [
            "## Peers",
            f"The same server, in rotation, median of {_ROUNDS} rounds, each in its fastest known configuration.",
            "Ours fences, counts attempts, and keeps one day of history.",
            peers.markdown(),
        ]
    if flat.figures:
        parts += ["## What must stay flat", flat.markdown()]
    return "\n\n".join(parts) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--peers", action="store_true", help="run the peers too (needs pip, and npm for one of them)")
    parser.add_argument("--flat", action="store_true", help="run what must stay flat too")
    parser.add_argument("--scale", type=float, default=1.0, help="shrink the burdens of --flat")
    parser.add_argument("--postgres", type=Path, help="the bin directory of another PostgreSQL")
    parser.add_argument("--json", type=Path, help="also write the raw figures there")
    parser.add_argument("--results", action="store_true", help="also write bench/RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
