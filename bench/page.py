"""bench/RESULTS.md and the table in README.md, made of bench/results/*.json and of nothing else.

`python -m bench.page` writes both anew. A test of the house makes sure that they are what the results say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bench.peers.titles import OURS, TITLES
from bench.reasons import REASONS
from bench.report import Summary, markdown, shown

#: What `bench.group.run_group` gives, by the name of the group.
Results: TypeAlias = dict[str, dict[str, Any]]
HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE / "RESULTS.md"
README = HERE.parent / "README.md"
ORDER = ("queue", "peers", "flat", "workflows", "state")
PICTURES = {
    "throughput.svg": "How many a second, beside the raw limit and the peers",
    "latency.svg": "How long it takes, and for which share",
    "held.svg": "Jobs in each second while a transaction is held open",
    "backlog.svg": "Jobs per second by the size of the backlog",
}
_WORDS = (
    "Written by `make bench`; [README.md](README.md) says what is measured, how, and how to repeat each figure. A "
    "figure is the median of the rounds that count, with their range. Ratios are what to read."
)
_OPEN, _CLOSE = "<!-- bench/page.py writes this -->", "<!-- until here -->"


def load() -> Results:
    """What was found last, by group."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    return {name: found[name] for name in ORDER if name in found}


def summaries_of(result: dict[str, Any]) -> list[Summary]:
    """The figures of a group."""
    return [Summary(**one) for one in result["figures"]]


def page(results: Results) -> str:
    """RESULTS.md."""
    parts = [
        "# Results",
        _WORDS,
        "\n".join(_origin(result) for result in results.values()),
        *_pictures(),
        _missed(results),
    ]
    for result in results.values():
        parts += [f"## {result['title']}", result["words"], _rounds(result), markdown(summaries_of(result))]
    return "\n\n".join(part for part in parts if part) + "\n"


def readme_table(results: Results) -> str:
    """The short table."""
    lines = ["| | a second | of the raw limit | best peer | times of it | |", "|---|---:|---:|---|---:|---|"]
    lines += [line for kind, title in _QUEUE_ROWS if (line := _queue_row(results, kind, title))]
    lines += [line for row in _OTHER_ROWS if (line := _other_row(results, *row))]
    return "\n".join([*lines, "", _caution(results)])


def _caution(results: Results) -> str:
    dates = sorted({result["date"] for result in results.values()})
    small = sorted({result["scale"] for result in results.values() if result["scale"] < 1})
    told = [f"Measured on {' and '.join(dates)} on {_machine(results)}."]
    if small:
        told.append(f"At {' and '.join(f'{scale:g}' for scale in small)} of the full size, which says less.")
    if noisy := [name for name, result in results.items() if not result["quiet"]]:
        told.append(f"The machine was not quiet for {', '.join(noisy)}: trust no ratio of those.")
    return " ".join(told)


def _machine(results: Results) -> str:
    # the settings of the server are on the page
    return " and ".join(sorted({result["machine"].partition(" (embedded")[0] for result in results.values()}))


#: What the peers are measured in, and what it is called in README.md.
_QUEUE_ROWS = (
    ("drain", "no-op jobs run, one process"),
    ("bulk", "jobs enqueued in one call"),
    ("single", "jobs enqueued one at a time, 50 callers"),
)
#: Group, figure, what it is called, and how the figures of peers begin, if it has any.
_OTHER_ROWS = (
    (
        "queue",
        "transactional jobs with one update, exactly once",
        "jobs with an update of their own, exactly once",
        None,
    ),
    (
        "workflows",
        "start to end, 50 in flight",
        "workflows of three durable steps, 50 at once",
        "start to end, 50 in flight: ",
    ),
    ("state", "key-value set, 64 callers", "keys set, 64 callers", "key-value set, 64 callers: "),
    ("state", "key-value get, 64 callers", "keys read, 64 callers", "key-value get, 64 callers: "),
)


def _queue_row(results: Results, kind: str, title: str) -> str | None:
    if "peers" not in results:
        return None
    start = f"{TITLES[kind]}: "
    rates = {one.name.removeprefix(start): one for one in summaries_of(results["peers"]) if one.name.startswith(start)}
    peers = {name: one for name, one in rates.items() if name != OURS and one.unit == "/s"}
    return _row(title, rates[OURS], peers, {name: rates[f"{OURS} in times of {name}"] for name in peers}, "peers")


def _other_row(results: Results, group: str, figure: str, title: str, peers_from: str | None) -> str | None:
    by_name = {one.name: one for one in summaries_of(results[group])} if group in results else {}
    if figure not in by_name:
        return None
    peers, ratios = dict[str, Summary](), dict[str, Summary]()
    for name, one in by_name.items():
        if peers_from and name.startswith(peers_from):
            peer = name.removeprefix(peers_from).partition(": ")[0]
            if one.unit in {"/s", "times"}:
                (ratios if one.unit == "times" else peers)[peer] = one
    return _row(title, by_name[figure], peers, ratios, group)


def _row(title: str, ours: Summary, peers: dict[str, Summary], ratios: dict[str, Summary], group: str) -> str:
    share = "" if ours.of_limit is None else f"{ours.of_limit:.0%}"
    best, times = "", ""
    if peers:
        name = max(peers, key=lambda peer: peers[peer].median)
        best = f"{name}: {shown(peers[name].median, '')}"
        times = shown(ratios[name].median, "")
    return f'| {title} | {shown(ours.median, "")} | {share} | {best} | {times} | `make bench ARGS="--only {group}"` |'


def _origin(result: dict[str, Any]) -> str:
    scale = "" if result["scale"] == 1 else f", at {result['scale']:g} of its full size"
    noise = "" if result["quiet"] else " **Every round was void: read no ratio from it.**"
    return f"- {result['title']}: {result['date']}{scale}; {result['machine']}.{noise}"


def _rounds(result: dict[str, Any]) -> str:
    told = [f"{one['drift']:.0%}{' (void)' if one['void'] else ''}" for one in result["rounds"]]
    how = f"Drift of the raw limits in each round: {', '.join(told)}."
    return how if result["quiet"] else f"{how} **The machine was not quiet: every round is void.**"


def _pictures() -> Sequence[str]:
    return [f"![{words}](plots/{name})" for name, words in PICTURES.items() if (HERE / "plots" / name).exists()]


def _missed(results: Results) -> str:
    missed = [one for result in results.values() for one in summaries_of(result) if one.is_met is False]
    if not missed:
        return "Every target was met."
    lines = ["## Where a target is missed", ""]
    for one in missed:
        _, median, _, share, target, _ = one.cells()
        figure = f"{median}, {share} of the limit" if one.target_share is not None else median
        lines.append(f"- **{one.name}** ({figure}; asked for: {target}). {reason_of(one.name) or ''}".rstrip())
    return "\n".join(lines)


def reason_of(name: str) -> str | None:
    """Why a target is missed when it is."""
    return next((reason for pattern, reason in REASONS.items() if re.search(pattern, name)), None)


def readme_with(text: str, made: str) -> str:
    """README.md with the table in its place."""
    before, _, rest = text.partition(_OPEN)
    _, found, after = rest.partition(_CLOSE)
    if not found:
        raise ValueError(f"README.md must have {_OPEN!r} and {_CLOSE!r}, where the table goes.")
    return f"{before}{_OPEN}\n{made}\n{_CLOSE}{after}"


def write_all() -> None:
    """Both."""
    results = load()
    PAGE.write_text(page(results), encoding="utf-8")
    README.write_text(readme_with(README.read_text(encoding="utf-8"), readme_table(results)), encoding="utf-8")


if __name__ == "__main__":
    write_all()
