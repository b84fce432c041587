"""All benchmarks with one command: `python -m bench`, or `make bench`.

Each group has a PostgreSQL of its own (fsync on, same cores), up to three rounds, as many as end within
its part of `--minutes`, and raw limits measured before and after each round; see `bench.group`. What is lost, doubled
or out of order fails the run. The raw figures go to bench/results/, the page to bench/RESULTS.md, its pictures to
bench/plots/, and the short table into README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from bench.flat import FlatGroup
from bench.group import Clock, Group, Sizes, run_group
from bench.page import RESULTS, summaries_of, write_all
from bench.peers.environments import HERE, EnvironmentLacking, python_of
from bench.peers.rotation import PeersGroup
from bench.report import table
from bench.state import StateGroup
from bench.workflow_group import WorkflowGroup
from bench.workloads import QueueGroup
from chimpbase.cli.serving import spare_collections

GROUPS: dict[str, type[Group]] = {
    kind.name: kind for kind in (QueueGroup, StateGroup, WorkflowGroup, PeersGroup, FlatGroup)
}


def main(arguments: Sequence[str] | None = None, *, keeps: bool = True, names: Sequence[str] = tuple(GROUPS)) -> int:
    """Run groups, print their tables and, when it `keeps`, write what they found; the exit code."""
    options = _options(arguments, names)
    sizes = Sizes(scale=options.scale, rounds=options.rounds if keeps else 1)
    # a log of a run is read later, in whatever width
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    clock, failed = Clock(console), list[str]()
    spare_collections()  # as `chimpbase start` does, and the members of the bench
    for place, name in enumerate(options.only):
        # what a group does not need is for those after it
        later = sum(GROUPS[one].weight for one in options.only[place:])
        budget = max(0.0, options.minutes * 60 - clock.seconds) * GROUPS[name].weight / later
        try:
            result = uvloop.run(run_group(GROUPS[name], sizes, clock, options.postgres, budget_s=budget))
        except Exception:
            # the figures of the other groups are true nevertheless
            console.print_exception()
            clock.say(f"[bold]{name} failed[/]")
            failed.append(name)
            continue
        console.print(table(summaries_of(result)))
        if not result["quiet"]:
            console.print(f"[bold]{name}: every round was void: the machine was not quiet; read no ratio from this.[/]")
        if options.json:
            options.json.write_text(json.dumps(result, indent=1))
        if keeps:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
            write_all()
    if keeps:
        _plot(console)
    clock.say(f"failed: {', '.join(failed)}" if failed else "done")
    return 1 if failed else 0


def alone(name: str) -> None:
    """Run one group once and keep nothing, for its own file."""
    sys.exit(main(keeps=False, names=[name]))


def _plot(console: Console) -> None:
    import subprocess

    try:
        python = python_of("plots")
    except EnvironmentLacking as lacking:
        console.print(f"No pictures: {lacking}")
        return
    subprocess.run([python, str(HERE.parent / "plots.py")], check=True)


def _options(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="shrink what is measured, for a quick look")
    parser.add_argument("--rounds", type=int, default=3, help="at most so many, if the time suffices (default: 3)")
    parser.add_argument("--minutes", type=float, default=22.0, help="how long all of it may take (default: 22)")
    parser.add_argument("--only", type=_names, default=list(names), help=f"of {','.join(GROUPS)}")
    parser.add_argument("--postgres", type=Path, help="the bin directory of another PostgreSQL")
    parser.add_argument("--json", type=Path, help="also write the raw figures of the last group there")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(GROUPS):
        raise argparse.ArgumentTypeError(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
