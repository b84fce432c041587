"""Plays one seed of the interleavings: three runtimes, a handful of jobs and runs, and processes declared dead."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import psycopg

from chimpbase._app import runtime as runtime_module
from chimpbase._engine import engine as engine_module
from chimpbase._pg.connector import Connector
from chimpbase._pg.db import Db
from chimpbase._store import processes
from tests.faults.interleaving import Director, loop_of
from tests.faults.scenes import build
from tests.waiting import passing, until

#: Decisions by how many statements had gone; `Director.script` tells what they say.
Script: TypeAlias = Mapping[int, Sequence[str]]

_QUEUES = ("write", "batch", "flaky", "snoozing", "rejected", "caller")
_WANTED = Counter(["x", "x", "x", "x", "x 1", "x 2", "follow x", "journey x", "one x", "two x", "slept x", "before"])
#: By the director's clock; at no multiple of any pace, so that no timer rings in the very moment the play begins.
_UP_BY_S = 3.217
_PACE: dict[str, Any] = {
    "lease": timedelta(hours=1),
    "poll": timedelta(seconds=1),
    "grace": timedelta(seconds=1),
    "statement_budget": timedelta(hours=1),
    "notify": False,
    "pool_size": 4,
}


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a seed or a script led to: what went, what it broke, and the script that does it again."""

    seed: int
    trace: tuple[str, ...]
    broken: tuple[str, ...]
    script: Script
    order: tuple[str, ...]


class LoopHeart:
    """A heart without a thread of its own, so that its beats are chosen like any other statement."""

    def __init__(self, open_db: Callable[[], Awaitable[Db]], *, process: Any, lease: timedelta, on_lost: Any) -> None:
        self._open_db, self._process, self._on_lost = open_db, process, on_lost
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._beat(), name="heart")

    async def stop(self, *, patience_s: float = 2.0) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _beat(self) -> None:
        db = await self._open_db()
        try:
            while True:
                async with db.acquire() as connection:
                    if not await processes.beat(connection, process=self._process):
                        return self._on_lost()
                await passing(2.0)
        finally:
            await db.close(grace=timedelta(0))


@contextmanager
def _staged(director: Director) -> Generator[None]:
    """Everything that reads a clock reads the director's, and connecting is waited for."""
    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        put(engine_module, "Heart", LoopHeart)
        for name, module in list(sys.modules.items()):
            if name.startswith(("chimpbase._engine", "chimpbase._pg")):
                for clock in ("perf_counter", "monotonic"):
                    if clock in vars(module):
                        put(module, clock, lambda: director.now)
        connect, one_by_one = Connector.connect, asyncio.Lock()

        async def connect_counted(self: Connector, **options: Any) -> Any:
            director.opening += 1
            try:
                async with one_by_one:  # or the network decides which of two that were asked for is there first
                    return await connect(self, **options)
            finally:
                director.opening -= 1

        put(Connector, "connect", connect_counted)
        opened = Db.open.__func__  # type: ignore[attr-defined]

        async def open_hooked(cls: type[Db], dsn: str, **options: Any) -> Db:
            role = options["application_name"].rpartition(" ")[2]
            return await opened(cls, dsn, **{**options, "hook": director.hook(f"{director.member} {role}")})

        stack.callback(setattr, Db, "open", classmethod(opened))
        Db.open = classmethod(open_hooked)  # type: ignore[assignment,method-assign]
        put(runtime_module, "random", SimpleNamespace(Random=lambda: random.Random(director.seed)))
        yield


def play(
    dsn: str,
    directory: Path,
    seed: int,
    *,
    script: Script | None = None,
    wanted: Sequence[str] | None = None,
    most: int = 400,
    runtimes: int = 3,
) -> Played:
    """Play a seed, a script, or what is wanted, to its end, in an event loop of its own."""
    with psycopg.connect(dsn, autocommit=True) as watch:
        watch.execute("set lock_timeout = '200ms'")
        director = Director(seed=seed, watch=watch, most=most, script=script, wanted=wanted)
        with _staged(director), asyncio.Runner(loop_factory=loop_of(director)) as runner:
            runner.run(_play(director, dsn, directory, runtimes))
        return Played(
            seed=seed,
            trace=tuple(director.trace),
            broken=tuple(director.broken),
            script=dict(director.taken),
            order=tuple(director.order),
        )


async def _play(director: Director, dsn: str, directory: Path, runtimes: int) -> None:
    async with AsyncExitStack() as stack:
        for n in range(runtimes):
            director.member = n
            await stack.enter_async_context(build().running(database_url=dsn, project=directory, **_PACE))
        await _settled(director)
        for queue in _QUEUES:
            director.watch.execute("select chimpbase.enqueue(%s, '\"x\"')", [queue])
        for flow, id in (("sleeper", "s"), ("listener", "l")):
            director.watch.execute(
                "select chimpbase.start_workflow(%s, '\"x\"', jsonb_build_object('id', %s::text))", [flow, id]
            )
        director.watch.execute("select chimpbase.signal('l', 'go', '\"s\"')")
        director.active = True
        try:
            while not director.over and not _is_idle(director):
                await passing(0.5)
        finally:
            director.release()
        if director.broken:
            return
        await until(lambda: _is_idle(director), deadline_s=20)
    notes = Counter(row[0] for row in director.watch.execute("select note from ledger").fetchall())
    if notes != _WANTED:
        director.broken.append(f"in the end: too much {notes - _WANTED}, too little {_WANTED - notes}")


async def _settled(director: Director) -> None:
    """Until nothing is under way: what begins the play must not depend on how fast the runtimes came up.

    Their first statements race over real sockets. Time stands still meanwhile, so once they rest, each timer is where
    the clock alone has put it.
    """
    await passing(_UP_BY_S)
    while director.flying or director.opening:
        await passing(0.01)


def _is_idle(director: Director) -> bool:
    row = director.watch.execute("""
        select exists (select from chimpbase.job union all select from chimpbase.job_later)
    """).fetchone()
    return row is not None and not row[0]
