"""The ledger: three accounts of what happened, kept apart, and the rules by which they must agree.

The client's log (outside the database) says what was asked for and what was answered. The `effect` table is written by
handlers in their own transactions, without a unique key. The notes of plain handlers are lines of a file. `check` is
the only judge, and knows nothing of how the program works.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Answer = Literal["ok", "fail", "unknown"]
LOST, DOUBLED, STUCK, STALE, FALSE, DEADLOCK = "lost", "doubled", "stuck", "stale", "false answer", "deadlock"


class ClientLog:
    """What the producers asked for and heard, appended and flushed to disk batch by batch."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.path = path

    def write(self, what: str, numbers: Iterable[int], *, queue: str) -> None:
        lines = "".join(json.dumps({"what": what, "n": n, "queue": queue}) + "\n" for n in numbers)
        os.write(self._file, lines.encode())
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


@dataclass(kw_only=True)
class Books:
    """All that was written down. `asked` maps a number to its queue and the last answer ("invoke": none came)."""

    asked: Mapping[int, tuple[str, str]]
    effects: Sequence[tuple[int, int, int]] = ()  # number, job, attempt
    notes: Sequence[str] = ()  # lines of plain handlers
    left: Sequence[tuple[int, str]] = ()  # number, table where it is left over
    balance: int = 0
    most_attempts: int = 0
    deadlocks: int = 0
    broken: Sequence[str] = field(default_factory=tuple)  # invariants that do not hold


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A rule that does not hold, and the smallest history that shows it: all that is written of one number."""

    kind: str
    text: str
    history: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join((f"{self.kind}: {self.text}", *self.history))


def read_log(path: Path) -> dict[int, tuple[str, str]]:
    """The last word on each number."""
    asked: dict[int, tuple[str, str]] = {}
    for line in path.read_text().splitlines():
        one = json.loads(line)
        asked[one["n"]] = (one["queue"], one["what"])
    return asked


def check(books: Books) -> list[Violation]:
    """Every disagreement between the accounts."""
    done = Counter(n for n, _, _ in books.effects)
    begun, ended = _noted(books.notes, "begin"), _noted(books.notes, "end")
    found: list[Violation] = []

    def say(kind: str, text: str, n: int | None = None) -> None:
        found.append(Violation(kind=kind, text=text, history=() if n is None else _history(books, n)))

    left = defaultdict(list)
    for n, table in books.left:
        left[n].append(table)
        say(STUCK, f"job {n} is left in {table}", n)
    for n, (queue, answer) in books.asked.items():
        times = done[n] if queue != "plain" else ended[n]
        if answer == "ok" and times == 0 and n not in left:
            say(LOST, f"job {n} was accepted and never done", n)
        if answer == "fail" and times:
            say(FALSE, f"job {n} was refused and done all the same", n)
        if queue != "plain" and times > 1:
            say(DOUBLED, f"job {n} took effect {times} times", n)
        if books.most_attempts and begun[n] > books.most_attempts:
            say("attempts", f"job {n} began {begun[n]} times, at most {books.most_attempts} are allowed", n)
    for n in sorted({n for n, _, _ in books.effects} - books.asked.keys()):
        say(FALSE, f"job {n} was done and never asked for", n)
    for line, times in Counter(books.notes).items():
        if times > 1:
            say(STALE, f"one attempt was made {times} times: {line}", int(line.split()[1]))
    if books.balance:
        say("balance", f"the accounts sum up to {books.balance}")
    for _ in range(books.deadlocks):
        say(DEADLOCK, "the server had to end one; its log says of whom")
    for rule in books.broken:
        say("invariant", rule)
    return found


def _noted(notes: Sequence[str], word: str) -> Counter[int]:
    return Counter(int(line.split()[1]) for line in notes if line.startswith(f"{word} "))


def _history(books: Books, n: int) -> tuple[str, ...]:
    lines = [f"client: {books.asked.get(n)}"]
    lines += [f"effect: job {job}, attempt {attempt}" for m, job, attempt in books.effects if m == n]
    lines += [f"noted:  {line}" for line in books.notes if line.split()[1] == str(n)]
    return tuple(lines)
