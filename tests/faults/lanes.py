"""Lanes: the work is done side by side, for most of it waits most of the time. The longest pieces are begun first."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from time import monotonic

from tests.faults.battle import Result
from tests.faults.lane import Work
from tests.waiting import passing

#: A result is one line, with all that is wrong.
_LINE = 1 << 26


class Lanes:
    """`going` says what each lane does now, and since when."""

    def __init__(self, many: int) -> None:
        self._many = many
        self.going: dict[int, tuple[str, float]] = {}

    async def results(self, works: Sequence[Work]) -> AsyncGenerator[Result]:
        """Each result as it comes. A lane that dies is a result, too, and another one takes its place."""
        todo, done = list(reversed(works)), asyncio.Queue[Result]()
        lanes = [asyncio.create_task(self._lane(n, todo, done)) for n in range(min(self._many, len(works)))]
        try:
            for _ in works:
                yield await done.get()
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _lane(self, n: int, todo: list[Work], done: asyncio.Queue[Result]) -> None:
        process: Process | None = None
        try:
            while todo:
                work = todo.pop()
                self.going[n] = work.title, monotonic()
                if process is None or process.returncode is not None:
                    process = await _begin()
                done.put_nowait(await _hand(process, work))
            del self.going[n]
        finally:
            if process is not None:
                await _end(process)


async def _begin() -> Process:
    command = (sys.executable, "-m", "tests.faults.lane")
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_LINE, start_new_session=True)


async def _hand(process: Process, work: Work) -> Result:
    assert process.stdin is not None
    assert process.stdout is not None
    began = monotonic()
    with suppress(OSError):
        process.stdin.write(json.dumps(asdict(work)).encode() + b"\n")
        await process.stdin.drain()
    line = await process.stdout.readline()
    if line:
        return Result(**json.loads(line))
    code = await process.wait()
    wrong = [f"seed {work.seed}, the suite itself: its process ended with {code}"]
    return Result(number=work.number, name="", seed=work.seed, wrong=wrong, seconds=monotonic() - began)


async def _end(process: Process) -> None:
    """At the end of its input it stops its servers and goes."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 30)
    except TimeoutError:
        process.kill()


async def tell_of(lanes: Lanes, say: Callable[[str], None], *, every_s: float) -> None:
    """Say again and again what is going on."""
    while True:
        await passing(every_s)
        now = monotonic()
        say("... " + ", ".join(f"{title} for {now - since:.0f} s" for title, since in lanes.going.values()))
