"""A group of workloads that share a server and raw limits, and the rounds it is measured in.

A round is: the raw limits, every part of the group, the raw limits again. When a limit drifted by more than 15 % the
machine was not quiet and the round is void: it is repeated once, and counts no more. The first round is always done;
another one, or a void one anew, only when it would end within the budget of the group. Deliberately absent: any
figure without the raw limits of its own round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from rich.console import Console

from bench.report import Figure, Report, machine, summarise
from bench.stand import SERVER, Stand, stand

DRIFT = 0.15
#: What it is, and the coroutine function that does it.
Part = tuple[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the workloads are; 1.0 is what the page is written from."""

    scale: float = 1.0
    rounds: int = 3

    def of(self, full: int, *, least: int) -> int:
        """A number of things, scaled."""
        return max(least, int(full * self.scale))

    def seconds(self, full: float, *, least: float) -> float:
        """How long something is measured, scaled."""
        return max(least, full * min(1.0, self.scale))


class Group(ABC):
    """Subclasses say what is calibrated, and what the parts are. `limits` are those taken before the parts ran."""

    name: ClassVar[str]
    title: ClassVar[str]
    #: What a reader has to know before the table.
    words: str = ""
    most_rounds: ClassVar[int] = 3
    #: Its part of the time that all groups have, against that of the others.
    weight: ClassVar[float] = 1.0

    def __init__(self, here: Stand, sizes: Sizes, console: Console) -> None:
        self.stand, self.sizes, self.console = here, sizes, console
        self.report, self.limits, self.turn = Report(), dict[str, float](), 0
        self.deadline = inf

    @abstractmethod
    async def prepare(self) -> None:
        """Once for all rounds."""

    @abstractmethod
    async def calibrate(self) -> dict[str, float]:
        """The raw limits."""

    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """What a round is made of."""

    def left(self) -> float:
        """Seconds of the group's budget; below zero when it is used up."""
        return self.deadline - perf_counter()

    def add(self, name: str, value: float, unit: str = "/s", **more: Any) -> None:
        """Keep a figure."""
        self.report.add(Figure(name=name, value=value, unit=unit, **more), self.console)


@dataclass(kw_only=True)
class Round:
    """`drifts` are those of each raw limit over the round."""

    turn: int
    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    #: Seconds by part.
    took: dict[str, float]
    figures: list[Figure]
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])

    @property
    def drift(self) -> float:
        return max(abs(self.after[name] / self.before[name] - 1) for name in self.before)

    def seconds_of(self, parts: Sequence[Part]) -> float:
        """What a round of these parts would have taken."""
        return self.seconds - sum(self.took.values()) + sum(self.took.get(name, 0) for name, _ in parts)

    @property
    def is_void(self) -> bool:
        return self.drift > DRIFT

    def raw(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "turn": self.turn,
            "void": self.is_void,
            "drift": round(self.drift, 3),
            "seconds": round(self.seconds, 1),
            "limits_before": _rounded(self.before),
            "limits_after": _rounded(self.after),
            "figures": {one.name: _short(one.value) for one in self.figures},
        }


class Clock:
    """Says what runs now, and how long it has been since the whole run began."""

    def __init__(self, console: Console) -> None:
        self.console, self.began = console, perf_counter()

    @property
    def seconds(self) -> float:
        return perf_counter() - self.began

    def say(self, text: str) -> None:
        """One line."""
        minutes, seconds = divmod(int(self.seconds), 60)
        self.console.print(f"[dim]{minutes:3}:{seconds:02}[/] {text}", soft_wrap=True)


async def run_group(
    kind: type[Group], sizes: Sizes, clock: Clock, postgres: Path | None, *, budget_s: float = inf
) -> dict[str, Any]:
    """Every round of a group on a server of its own, as many as end within the budget; what bench/results keeps."""
    began, deadline = datetime.now(UTC), perf_counter() + budget_s
    async with stand(postgres) as here:
        group = kind(here, sizes, clock.console)
        group.deadline = deadline
        clock.say(f"[bold]{group.name}[/]: prepare; it has {budget_s:,.0f} s")
        await group.prepare()
        rounds = await _rounds(group, min(sizes.rounds, kind.most_rounds), clock)
        where = machine(here.version, SERVER)
    return _result(group, rounds, began, where)


async def _rounds(group: Group, wanted: int, clock: Clock) -> list[Round]:
    rounds: list[Round] = []
    for turn in range(1, wanted + 1):
        for again in ("", " again"):
            group.turn = turn
            if rounds and rounds[-1].seconds_of(group.parts()) > group.left():
                clock.say(f"{group.name}: no time for another round, {max(0, group.left()):.0f} s are left")
                return rounds
            rounds.append(await _round(group, turn, f"{group.name} {turn}/{wanted}{again}", clock))
            clock.say(f"{group.name} {turn}/{wanted}{again}: took {rounds[-1].seconds:.0f} s")
            if not rounds[-1].is_void:
                break
            clock.say(f"[bold]void: the raw limits drifted by {rounds[-1].drift:.0%}[/]")
    return rounds


async def _round(group: Group, turn: int, label: str, clock: Clock) -> Round:
    began = perf_counter()
    group.report, group.turn = Report(), turn
    clock.say(f"{label}: raw limits")
    group.limits = before = await _limits(group)
    took: dict[str, float] = {}
    for name, part in group.parts():
        clock.say(f"{label}: {name}")
        part_began = perf_counter()
        await part()
        took[name] = perf_counter() - part_began
        clock.console.print(f"      [dim]{took[name]:.1f} s[/]", soft_wrap=True)
    clock.say(f"{label}: raw limits again")
    after = await _limits(group)
    report = group.report
    for name, value in before.items():
        other = after[name]
        clock.console.print(
            f"      {name}: {value:,.0f} and {other:,.0f}, {other / value - 1:+.0%}", highlight=False, soft_wrap=True
        )
    seconds = perf_counter() - began
    return Round(
        turn=turn,
        before=before,
        after=after,
        seconds=seconds,
        took=took,
        figures=report.figures,
        curves=report.curves,
    )


async def _limits(group: Group) -> dict[str, float]:
    """Each raw limit, the better of two: whatever disturbs a limit makes it less."""
    # the dead rows and dirty pages that parts have left are no matter of the machine
    for sql in ("vacuum", "checkpoint"):
        await group.stand.value(sql)
    one, two = await group.calibrate(), await group.calibrate()
    return {name: max(value, two[name]) for name, value in one.items()}


def _result(group: Group, rounds: Sequence[Round], began: datetime, where: str) -> dict[str, Any]:
    valid = [one for one in rounds if not one.is_void]
    counted = valid or rounds
    limits = [
        Figure(name=f"raw limit: {name}", value=value)
        for one in counted
        for name, value in [(name, (one.before[name] + one.after[name]) / 2) for name in one.before]
    ]
    figures = summarise([limits]) + summarise([one.figures for one in counted])
    return {
        "group": group.name,
        "title": group.title,
        "words": group.words,
        "date": f"{began:%Y-%m-%d}",
        "scale": group.sizes.scale,
        "machine": where,
        "quiet": bool(valid),
        "seconds": round(sum(one.seconds for one in rounds)),
        "figures": [_rounded(asdict(one)) for one in figures],
        "curves": {name: points for one in counted for name, points in one.curves.items()},
        "rounds": [one.raw() for one in rounds],
    }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _short(value) if isinstance(value, float) else value for name, value in values.items()}


def _short(value: float) -> float:
    """Five digits: what is kept is read by people, and differs by more from run to run."""
    return float(f"{value:.5g}")
