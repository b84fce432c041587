"""Interleavings: several runtimes in one loop, and a seed that decides whose next statement goes.

Time is not real: the loop's clock stands still while statements run and jumps to the next timer when a seed says so.
Every statement of every runtime waits at the hook until it is chosen; one goes at a time, and the invariants are
checked after each. What is not decided by the seed does not happen: the hearts beat in this loop, too, notifications
are off, and connections take no time. So a seed that fails fails again, but for what the database's own clock decides:
when a job falls due. A failure prints the whole order of its statements.

What a seed decided can be told as a script: each decision that was not the plain one, by how many statements had gone.
Plain is to go on with the runtime whose statement went last, and to let time go only when nothing waits. `shrinking`
makes scripts shorter while they still fail.

Source: the idea is that of FoundationDB's simulation (Zhou et al., SIGMOD 2021), here over a real PostgreSQL.
"""

from __future__ import annotations

import asyncio
import random
import re
import selectors
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from chimpbase._pg import lexer
from tests.faults.invariants import one_query

#: One in so many decisions lets time go on though statements wait.
_TIME_GOES_ON = 12
#: And in so many a process is declared dead, three times at most.
_ONE_DIES = 40
_DEATH = re.compile(r"d\d+")


@dataclass(eq=False)
class Waiting:
    """A statement that wants to go."""

    who: str
    what: str
    number: int
    gate: asyncio.Future[None]


@dataclass(kw_only=True)
class Director:
    """Chooses. `trace` is what went, in order; `broken` what did not hold, and after which statement."""

    seed: int
    watch: psycopg.Connection[Any]
    most: int = 400
    #: What to decide instead of throwing dice: `{12: ["d0", "t", "3"]}`, when twelve have gone, declares the first
    #: process dead, lets time go, and lets the fourth of the statements go that wait, in the order of their names.
    script: Mapping[int, Sequence[str]] | None = None
    #: Or what is to go, in this order, by its line in a trace, with `d0` and `t` as above. What it does not name goes
    #: when what it names next cannot; what cannot go at all is passed over.
    wanted: Sequence[str] | None = None
    trace: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])
    waiting: list[Waiting] = field(default_factory=list[Waiting])
    flying: dict[int, str] = field(default_factory=dict[int, str])
    opening: int = 0
    active: bool = False
    ended: bool = False
    member: int = 0
    now: float = 0.0
    deaths: int = 3
    #: The decisions that were not plain, as a script.
    taken: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    #: All that was decided, as `wanted` takes it.
    order: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self._number = self._gone = 0
        self._last = ""
        self._left = {gone: list(words) for gone, words in (self.script or {}).items()}
        self._next = list(self.wanted or ())

    def release(self) -> None:
        """The play is over: everything may go."""
        self.active, self.ended = False, True
        for one in self.waiting:
            if not one.gate.done():
                one.gate.set_result(None)
        self.waiting.clear()

    def hook(self, who: str) -> Hook:
        return Hook(self, who)

    @property
    def over(self) -> bool:
        return len(self.trace) >= self.most or bool(self.broken)

    def ask(self, who: str, what: str) -> Waiting:
        self._number += 1
        waiting = Waiting(who, what, self._number, asyncio.get_running_loop().create_future())
        self.waiting.append(waiting)
        return waiting

    def let_go(self, what: str) -> int:
        self._number += 1
        self.flying[self._number] = what
        return self._number

    def choose(self, timeout: float | None) -> float | None:
        """Nothing can go on by itself: let a statement go, or time. How far time goes, or None."""
        if (victim := self._who_dies()) is not None:
            self._declare_dead(victim)
        able = [one for one in self.waiting if not one.gate.done()]
        if not able:
            return timeout
        able.sort(key=lambda one: (one.who, one.what, one.number))
        plain = next((n for n, one in enumerate(able) if one.who.partition(" ")[0] == self._last), 0)
        if self.wanted is not None:
            place = self._wanted_of([f"{one.who}: {one.what}" for one in able], plain, may_wait=timeout is not None)
        else:
            place = self._who_goes(len(able), plain, may_wait=timeout is not None)
        if place is None:
            self._note("t")
            self.order.append("t")
            return timeout
        if place != plain:
            self._note(str(place))
        chosen = able[place]
        self._last, self._gone = chosen.who.partition(" ")[0], self._gone + 1
        self.waiting.remove(chosen)
        self.flying[chosen.number] = chosen.what
        self.trace.append(f"{chosen.who}: {chosen.what}")
        self.order.append(self.trace[-1])
        chosen.gate.set_result(None)
        return 0.0

    def _who_dies(self) -> int | None:
        """Which of the living processes is declared dead now; None for nobody."""
        if self.wanted is not None:
            return int(self._next.pop(0)[1:]) if self._next and _DEATH.fullmatch(self._next[0]) else None
        if self.script is not None:
            words = self._left.get(self._gone, [])
            return int(words.pop(0)[1:]) if words and words[0].startswith("d") else None
        if not self.deaths or self.dice.randrange(_ONE_DIES):
            return None
        self.deaths -= 1
        return self.dice.randrange(1_000_000)

    def _who_goes(self, able: int, plain: int, *, may_wait: bool) -> int | None:
        """Which of the statements goes; None for time."""
        if self.script is None:
            waits = may_wait and not self.dice.randrange(_TIME_GOES_ON)
            return None if waits else self.dice.randrange(able)
        words = self._left.get(self._gone, [])
        word = words.pop(0) if words and not words[0].startswith("d") else ""
        if word == "t" and may_wait:
            return None
        return min(int(word), able - 1) if word.isdigit() else plain

    def _wanted_of(self, able: list[str], plain: int, *, may_wait: bool) -> int | None:
        """Which of the statements that are able goes, by what is wanted; None for time."""
        while self._next and not _DEATH.fullmatch(self._next[0]):
            if self._next[0] == "t":
                del self._next[0]
                if may_wait:
                    return None
            elif self._next[0] in able:
                return able.index(self._next.pop(0))
            elif unnamed := [n for n, one in enumerate(able) if one not in self._next]:
                return plain if plain in unnamed else unnamed[0]
            else:
                del self._next[0]
        return plain

    def _note(self, word: str) -> None:
        self.taken.setdefault(self._gone, []).append(word)

    def _declare_dead(self, place: int) -> None:
        """A process has given no sign of life for a lease, though it lives: what it does from now on must not count."""
        rows = self.watch.execute("select id from chimpbase.process where dead_at is null order by id").fetchall()
        if not rows:
            return
        (victim,) = rows[place % len(rows)]
        try:
            self.watch.execute("update chimpbase.process set dead_at = clock_timestamp() where id = %s", [victim])
        except psycopg.errors.LockNotAvailable:
            return  # somebody is about to do that
        self._note(f"d{place % len(rows)}")
        self.order.append(f"d{place % len(rows)}")
        self.trace.append(f"process {victim} is declared dead")

    def landed(self, number: int) -> None:
        """A statement has its answer: does everything still hold?"""
        self.flying.pop(number, None)
        if self.active and not self.broken:
            rows = self.watch.execute(one_query().encode()).fetchall()
            self.broken += [f"after {self.trace[-1] if self.trace else '-'}: {rule}: {what}" for rule, what in rows]

    def all_blocked(self) -> bool:
        """Whether every statement on its way waits for a lock that another transaction here holds."""
        row = self.watch.execute(b"""
            select count(*) filter (where wait_event_type = 'Lock'), count(*) filter (where state = 'active')
            from pg_stat_activity
            where datname = current_database() and application_name like 'chimpbase%'
        """).fetchone()
        return row is not None and row[0] == row[1] == len(self.flying)


class Hook:
    """The statement hook of one pool."""

    def __init__(self, director: Director, who: str) -> None:
        self._director, self._who = director, who
        self._mine: dict[asyncio.Task[Any] | None, int] = {}

    async def before(self, sql: str, args: Sequence[object]) -> None:
        if not self._director.active:  # it goes as it comes, and time waits for it
            self._mine[asyncio.current_task()] = self._director.let_go(lexer.label(sql))
        else:
            waiting = self._director.ask(self._who, lexer.label(sql))
            try:
                await waiting.gate
            except BaseException:
                self._director.flying.pop(waiting.number, None)
                if waiting in self._director.waiting:
                    self._director.waiting.remove(waiting)
                raise
            self._mine[asyncio.current_task()] = waiting.number

    def after(self, sql: str, error: BaseException | None) -> None:
        number = self._mine.pop(asyncio.current_task(), None)
        if number is not None:
            self._director.landed(number)


class _Selector(selectors.DefaultSelector):
    """Waits for the network only while a statement is on its way; else the director decides what happens next."""

    director: Director

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        director = self.director
        if director.ended:
            director.now += 0.005
            return super().select(min(timeout or 0.005, 0.005))
        events = super().select(0)
        if events or timeout == 0:
            return events
        if director.opening:
            return super().select(0.01)
        if director.flying:
            events = super().select(0.02)
            if events or not director.active or not director.all_blocked():
                return events
        forward = director.choose(timeout) if director.active else timeout
        if forward:
            director.now += forward
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time is the director's."""

    def __init__(self, director: Director) -> None:
        selector = _Selector()
        selector.director = director
        self._director = director
        super().__init__(selector)

    def time(self) -> float:
        return self._director.now


def loop_of(director: Director) -> Callable[[], Loop]:
    return lambda: Loop(director)
