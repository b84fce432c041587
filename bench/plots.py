"""The pictures of the page, from bench/results/*.json: run with .bench/plots/bin/python, which has matplotlib.

They are SVG with their text as text, small, and the same for the same figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
OURS, LIMIT, PEER = "#b3541e", "#c9c9c9", "#4a6d8c"
PEERS = ("#4a6d8c", "#6a8f5b", "#8c6a9a", "#a08a4a", "#5b9a97", "#9a5b6a", "#777777", "#333333")


def main() -> None:
    """Every picture for which there are figures."""
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "chimpbase",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.dpi": 80,
        }
    )
    results = {path.stem: json.loads(path.read_text()) for path in (HERE / "results").glob("*.json")}
    (HERE / "plots").mkdir(exist_ok=True)
    throughput(results)
    latency(results)
    if "flat" in results:
        held(results["flat"]["curves"])
        backlog(results["flat"]["curves"])


def throughput(results: dict) -> None:
    """What we do, the raw limit of the same statements, and the peers, a panel for each of three workloads."""
    if "peers" not in results:
        return
    by_name = {one["name"]: one for one in results["peers"]["figures"]}
    kinds = ("drain", "enqueue in bulk", "enqueue one at a time, 50 callers")
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6))
    for panel, kind in zip(panels, kinds, strict=True):
        ours = by_name[f"{kind}: chimpbase"]
        rows = [(name.removeprefix(f"{kind}: "), one) for name, one in by_name.items() if name.startswith(f"{kind}: ")]
        rows = [(name, one) for name, one in rows if one["unit"] == "/s"]
        rows.sort(key=lambda row: row[1]["median"])
        if ours["of_limit"]:
            limit = ours["median"] / ours["of_limit"]
            panel.axvline(limit, color=LIMIT, linewidth=3, zorder=0)
            panel.annotate("raw limit ", (limit, -0.4), ha="right", rotation=90, color="#888888", fontsize=8)
        for place, (name, one) in enumerate(rows):
            spread = [[one["median"] - one["low"]], [one["high"] - one["median"]]]
            panel.barh(place, one["median"], color=OURS if name == "chimpbase" else PEER, xerr=spread, ecolor="#555555")
        panel.set_yticks(range(len(rows)), [name for name, _ in rows])
        panel.set_title(kind, fontsize=9, loc="left")
        panel.set_xlabel("jobs per second")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    _save(figure, "throughput.svg")


def latency(results: dict) -> None:
    """Which share of the calls takes how long."""
    curves = {
        name: points
        for result in results.values()
        for name, points in result["curves"].items()
        if points and points[-1][1] == 100.0
    }
    if not curves:
        return
    figure, panel = plt.subplots(figsize=(7, 3.6))
    for color, (name, points) in zip((OURS, *PEERS), curves.items(), strict=False):
        panel.plot([x for x, _ in points], [y for _, y in points], color=color, label=name)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xlabel("milliseconds")
    panel.set_ylabel("share of the calls, %")
    panel.axhline(99, color=LIMIT, linewidth=1, zorder=0)
    panel.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, "latency.svg")


def held(curves: dict) -> None:
    """Jobs per second, second by second, with and without a transaction held open."""
    figure, panel = plt.subplots(figsize=(7, 3.2))
    for color, (name, points) in zip(
        (PEER, OURS, *PEERS[1:]), [one for one in curves.items() if one[0].startswith("flow")], strict=False
    ):
        panel.plot([x for x, _ in points], [y for _, y in points], color=color, label=name.removeprefix("flow, "))
    panel.set_ylim(bottom=0)
    panel.set_xlabel("seconds")
    panel.set_ylabel("jobs per second")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    panel.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, "held.svg")


def backlog(curves: dict) -> None:
    """The rate of the next 100,000 jobs by how many wait."""
    points = curves.get("drain by backlog")
    if not points:
        return
    figure, panel = plt.subplots(figsize=(7, 3.2))
    panel.plot([x for x, _ in points], [y for _, y in points], color=OURS, marker="o")
    panel.set_xscale("log")
    panel.set_xticks([x for x, _ in points], [f"{x:,.0f}" for x, _ in points])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.set_xlabel("jobs that wait")
    panel.set_ylabel("jobs run per second")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    _save(figure, "backlog.svg")


def _save(figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(HERE / "plots" / name, metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
