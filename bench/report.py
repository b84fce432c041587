"""Figures of one round, the median and range of several, and the tables that show them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`limit` is the raw limit of the same round in the same unit. What is asked for is `target`, in `unit`, or
    `target_share`, of the raw limit.
    """

    name: str
    value: float
    unit: str = "/s"
    limit: float | None = None
    target: float | None = None
    target_share: float | None = None
    less_is_better: bool = False

    @property
    def of_limit(self) -> float | None:
        return self.value / self.limit if self.limit else None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One figure over the rounds that count."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    of_limit: float | None = None
    target: float | None = None
    target_share: float | None = None
    less_is_better: bool = False

    @property
    def is_met(self) -> bool | None:
        """None when nothing is asked for."""
        if self.target_share is not None and self.of_limit is not None:
            return self.of_limit >= self.target_share
        if self.target is None:
            return None
        return self.median <= self.target if self.less_is_better else self.median >= self.target

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Name, median, range, share of the raw limit, target, verdict."""
        sign = "<=" if self.less_is_better else ">="
        target = "" if self.target is None else f"{sign} {self.target:,g}"
        if self.target_share is not None:
            target = f"{sign} {self.target_share:.0%} of the limit"
        verdict = {None: "", True: "met", False: "missed"}[self.is_met]
        spread = "" if self.low == self.high else f"{shown(self.low, '')} to {shown(self.high, '')}"
        share = "" if self.of_limit is None else f"{self.of_limit:.0%}"
        return self.name, shown(self.median, self.unit), spread, share, target, verdict


def shown(value: float, unit: str) -> str:
    """A value as people read it."""
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"
    return f"{number}{unit}" if unit in {"", "/s"} else f"{number} {unit}"


@dataclass
class Report:
    """Figures in the order they were taken, and curves: points (x, y) by name."""

    figures: list[Figure] = field(default_factory=list[Figure])
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])

    def add(self, figure: Figure, console: Console) -> Figure:
        """Keep a figure, and tell it to whoever waits."""
        self.figures.append(figure)
        share = "" if figure.of_limit is None else f", {figure.of_limit:.0%} of the raw limit"
        console.print(
            f"      {figure.name}: [bold]{shown(figure.value, figure.unit)}[/]{share}", highlight=False, soft_wrap=True
        )
        return figure

    def latencies(self, name: str, figures_ms: Sequence[float]) -> None:
        """Keep a distribution as a curve: the share of the figures (%) up to each number of milliseconds."""
        ordered = sorted(figures_ms)
        shares = [*range(0, 99, 2), 99.0, 99.5, 99.9, 100.0]
        last = len(ordered) - 1
        self.curves[name] = [(round(ordered[round(last * share / 100)], 3), float(share)) for share in shares]


def summarise(rounds: Sequence[Sequence[Figure]]) -> list[Summary]:
    """The median and the range of each figure, in the order in which they first appear."""
    by_name: dict[str, list[Figure]] = {}
    for figures in rounds:
        for figure in figures:
            by_name.setdefault(figure.name, []).append(figure)
    return [_summary(name, figures) for name, figures in by_name.items()]


def _summary(name: str, figures: Sequence[Figure]) -> Summary:
    values = [figure.value for figure in figures]
    shares = [figure.of_limit for figure in figures if figure.of_limit is not None]
    first = figures[0]
    return Summary(
        name=name,
        unit=first.unit,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        of_limit=statistics.median(shares) if shares else None,
        target=first.target,
        target_share=first.target_share,
        less_is_better=first.less_is_better,
    )


def table(summaries: Sequence[Summary]) -> Table:
    """For a terminal."""
    made = Table("workload", "median", "range", "of the raw limit", "target", "")
    for one in summaries:
        made.add_row(*one.cells())
    return made


def markdown(summaries: Sequence[Summary]) -> str:
    """For a page."""
    lines = ["| workload | median | range | of the raw limit | target | |", "|---|---:|---:|---:|---:|---|"]
    lines += [f"| {' | '.join(one.cells())} |" for one in summaries]
    return "\n".join(lines)


def machine(server_version: str, settings: dict[str, str]) -> str:
    """Where and on what a run was made."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    spelt = ", ".join(f"{name}={value}" for name, value in settings.items())
    return (
        f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, PostgreSQL {server_version} "
        f"(embedded, same cores, fsync on; {spelt})"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
