"""The report: what came of all the pieces, as lines and tables."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.faults.battle import Result
from tests.faults.ledger import DEADLOCK, DOUBLED, LOST, STALE, STUCK

#: What docs/guarantees.md promises, of every hundred times in ninety-nine. The fleet's lease is one second.
RESUMED_S, TAKEN_OVER_S = 2.0, 1.0 + 1.0
_KINDS = (LOST, DOUBLED, STUCK, STALE)


def joined(results: Iterable[Result], order: Sequence[str]) -> list[Result]:
    """One result for each number and seed, of all its parts."""
    whole: dict[tuple[int, str], Result] = {}
    for part in results:
        key = part.seed, part.number
        if key not in whole:
            whole[key] = Result(number=part.number, name="", seed=part.seed)
        into = whole[key]
        into.name, into.skipped = into.name or part.name, into.skipped or part.skipped
        for name in ("jobs", "seconds", "done", "of", "wrong", "resumed_s", "taken_over_s"):
            setattr(into, name, getattr(into, name) + getattr(part, name))
        into.hits = dict(Counter(into.hits) + Counter(part.hits))
        into.counts = dict(Counter(into.counts) + Counter(part.counts))
    place = {number: at for at, number in enumerate(order)}
    return sorted(whole.values(), key=lambda one: (one.seed, place.get(one.number, len(place))))


def p99(values: Sequence[float]) -> float:
    """The value that at most one in a hundred is above."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


def too_late(results: Sequence[Result]) -> list[str]:
    """What was promised within a time, and took longer."""
    found: list[str] = []
    for what, name, most in (
        ("work resumed after the server's return", "resumed_s", RESUMED_S),
        ("a killed process's jobs were begun elsewhere", "taken_over_s", TAKEN_OVER_S),
    ):
        values = [value for one in results for value in getattr(one, name)]
        if values and p99(values) > most:
            found.append(f"LATE: {what} within {p99(values):.2f} s at the 99th percentile, {most:g} s are promised")
    return found


def as_table(results: Sequence[Result]) -> str:
    """Markdown, one line for each."""
    head = "| fault | what | seed | jobs | done | lost | doubled | stuck | stale | resumed p99 | taken over p99 | time "
    lines = [head + "| verdict |", "|" + "---|" * 13]
    for one in results:
        name = f"{one.name} ({one.done} of {one.of})" if one.of else one.name
        counts = " | ".join(str(one.counts.get(kind, 0)) for kind in _KINDS)
        cells = f"| {one.number} | {name} | {one.seed} | {one.jobs} | {_hits(one)} | {counts} "
        times = f"| {_time(one.resumed_s)} | {_time(one.taken_over_s)} | {one.seconds:.0f} s "
        lines.append(cells + times + f"| {one.verdict} |")
    return "\n".join(lines)


def as_short_table(results: Sequence[Result]) -> str:
    """Markdown, a few numbers of all of them."""
    total = _total(results)
    resumed = [value for one in results for value in one.resumed_s]
    taken = [value for one in results for value in one.taken_over_s]
    counts = Counter[str]()
    for one in results:
        counts.update(one.counts)
    rows = [
        ("jobs", f"{sum(one.jobs for one in results):,}"),
        ("processes killed (SIGKILL)", str(total["kills"])),
        ("crashes of PostgreSQL", str(total["crashes"])),
        ("connections reset in COMMIT", str(total["resets"])),
        ("backends terminated", str(total["backends"])),
        ("lost · doubled · stuck · stale commits", " · ".join(str(counts[kind]) for kind in _KINDS)),
        ("deadlocks of our own statements", str(counts[DEADLOCK])),
        ("work goes on after the server's return, p99", _time(resumed)),
        ("a killed process's jobs are begun elsewhere, p99, with a lease of 1 s", _time(taken)),
    ]
    return "\n".join(("| | |", "|---|---|", *(f"| {what} | {much} |" for what, much in rows)))


def one_line(result: Result) -> str:
    """What came of one piece."""
    return f"{result.number:<8} {result.verdict:<8} {result.jobs} jobs, {_hits(result)}, {result.seconds:.0f} s"


def summary_of(results: Sequence[Result], seconds: float) -> str:
    total = _total(results)
    broken = sum(1 for result in results if result.wrong)
    return (
        f"{sum(result.jobs for result in results):,} jobs, {total['kills']} kills of processes, "
        f"{total['crashes']} crashes of PostgreSQL, {len(results)} fights, {broken} broken, in {seconds:.0f} s "
        f"on {os.cpu_count()} cores."
    )


def _total(results: Sequence[Result]) -> Counter[str]:
    total = Counter[str]()
    for result in results:
        total.update(result.hits)
    return total


def _hits(result: Result) -> str:
    return ", ".join(f"{times} {what}" for what, times in sorted(result.hits.items())) or "-"


def _time(values: Sequence[float]) -> str:
    return f"{p99(values):.2f} s" if values else "-"
