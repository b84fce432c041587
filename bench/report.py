"""A report: figures with the raw limit and the target each is read against, as a table, as JSON and as Markdown."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass
class Figure:
    """`limit` is the raw limit of the same run in the same unit; `target` is what the design asks for, in `unit`."""

    name: str
    value: float
    unit: str = "/s"
    limit: float | None = None
    target: float | None = None
    less_is_better: bool = False

    @property
    def shown(self) -> str:
        return f"{self.value:,.0f}/s" if self.unit == "/s" else f"{self.value:,.2f} {self.unit}".strip()

    @property
    def share(self) -> str:
        return f"{self.value / self.limit:.0%}" if self.limit else ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = self.value <= self.target if self.less_is_better else self.value >= self.target
        return "met" if met else "missed"


@dataclass
class Report:
    """Figures in the order they were taken."""

    figures: list[Figure] = field(default_factory=list[Figure])

    def add(self, figure: Figure, console: Console | None = None) -> Figure:
        """Keep a figure, and tell it to whoever waits."""
        self.figures.append(figure)
        if console is not None:
            console.print(f"  {figure.name}: [bold]{figure.shown}[/] {figure.share} {figure.verdict}", highlight=False)
        return figure

    def value(self, name: str) -> float:
        """The figure of that name."""
        return next(figure.value for figure in self.figures if figure.name == name)

    def show(self, console: Console) -> None:
        """All of it, as a table."""
        table = Table("workload", "figure", "of the raw limit", "target", "")
        for one in self.figures:
            target = "" if one.target is None else f"{'<=' if one.less_is_better else '>='} {one.target:,g}"
            table.add_row(one.name, one.shown, one.share, target, one.verdict)
        console.print(table)

    def raw(self) -> list[dict[str, object]]:
        """For JSON."""
        return [asdict(one) for one in self.figures]

    def markdown(self) -> str:
        """The table again, for a page."""
        lines = ["| workload | figure | of the raw limit | target | |", "|---|---:|---:|---:|---|"]
        for one in self.figures:
            target = "" if one.target is None else f"{'<=' if one.less_is_better else '>='} {one.target:,g}"
            lines.append(f"| {one.name} | {one.shown} | {one.share} | {target} | {one.verdict} |")
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
