"""The workflows of the bench, and what is measured of them. Each measure counts every run in and out."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg

from bench.stand import Stand, until
from chimpbase import App, Ctx, Signal, Wf, step, workflow
from chimpbase._core.values import NewRun, ProcessId, QueueId, StepMemo
from chimpbase._pg.db import Db
from chimpbase._store import processes, run_births, runs

done: Counter[tuple[int, int]] = Counter()
go = Signal("go", int)
TABLES = ", ".join(f"chimpbase.{one}" for one in ("run", "step", "signal", "job", "job_later", "job_dead", "job_done"))


@step
async def one(ctx: Ctx, number: int) -> int:
    """Counts itself."""
    done[number, 1] += 1
    return number


@step
async def two(ctx: Ctx, number: int) -> int:
    """Counts itself."""
    done[number, 2] += 1
    return number


@step
async def three(ctx: Ctx, number: int) -> int:
    """Counts itself."""
    done[number, 3] += 1
    return number


@step(name="lazy", durable="lazy")
async def lazy(ctx: Ctx, number: int, place: int) -> int:
    """Counts itself, and is written with what comes after it."""
    done[number, place] += 1
    return number


@workflow("bench", concurrency=500)
async def flow(wf: Wf, number: int) -> int:
    """Three steps, one after another."""
    return await three(wf, await two(wf, await one(wf, number)))


@workflow("bench.lazy", concurrency=500)
async def lazy_flow(wf: Wf, number: int) -> int:
    """Three lazy steps."""
    for place in (1, 2, 3):
        await lazy(wf, number, place)
    return number


@workflow("bench.doze", concurrency=500)
async def doze(wf: Wf, number: int) -> None:
    """Sleeps for a day."""
    await wf.sleep(timedelta(days=1))


@workflow("bench.wait", concurrency=500)
async def waiting(wf: Wf, number: int) -> int | None:
    """Waits for one signal."""
    return await wf.wait(go)


FLOWS = (flow, lazy_flow, doze, waiting)


@dataclass
class Ear:
    """Counts statements of the app."""

    heard: int = 0

    def before(self, sql: str, args: Sequence[object]) -> None:
        """One more."""
        del sql, args
        self.heard += 1

    def after(self, sql: str, error: BaseException | None) -> None:
        """Nothing."""


def listen(runtime: Any) -> Ear:
    """An ear on every statement of a runtime, but the heart's."""
    ear = Ear()
    for db in (runtime._db, runtime._lanes):
        db.listen(ear)
    return ear


@dataclass
class Taken:
    """What a measure of workflows from start to end found."""

    rate: float
    p50_ms: float
    p99_ms: float
    statements: float
    commits: float


async def in_flight(stand: Stand, kind: Any, *, runs: int, at_once: int) -> Taken:
    """Start runs and await their results, so many at a time."""
    done.clear()
    took: list[float] = []
    numbers = iter(range(runs))
    app = App("bench", register=list(FLOWS))
    async with stand.running(app, log_level="error") as runtime:
        client, ear = app.ctx.workflow, listen(runtime)
        commits = await stand.value("select xact_commit from pg_stat_database where datname = current_database()")

        async def keep_going() -> None:
            for number in numbers:
                began = perf_counter()
                run = await client.start(kind, number)
                if await run.result(timeout=120) != number:
                    raise RuntimeError(f"run {number} has another result")
                took.append(perf_counter() - began)

        began = perf_counter()
        await asyncio.gather(*(keep_going() for _ in range(at_once)))
        seconds, heard = perf_counter() - began, ear.heard
    await stand.value("select pg_stat_force_next_flush()")
    after = await stand.value("select xact_commit from pg_stat_database where datname = current_database()")
    await counted(stand, runs)
    took.sort()
    return Taken(
        runs / seconds, took[runs // 2] * 1e3, took[runs * 99 // 100] * 1e3, heard / runs, (after - commits) / runs
    )


async def counted(stand: Stand, runs: int, *, here: bool = True) -> None:
    """Every step ran once and is in the journal, every run completed; else the measure is void."""
    steps = await stand.value("select count(*) from chimpbase.step")
    ended = await stand.value("select count(*) from chimpbase.run where state = 'completed'")
    await stand.value(f"truncate {TABLES}")
    if steps != 3 * runs or ended != runs:
        raise RuntimeError(f"{runs} runs in: {ended} ended, {steps} steps written")
    if here and (len(done) != 3 * runs or set(done.values()) != {1}):
        raise RuntimeError(f"{runs} runs in: {done.total()} steps run")


async def fill(stand: Stand, name: str, runs: int) -> None:
    """Start runs that nobody takes yet."""
    async with stand.running(App("bench", register=list(FLOWS)), workers=False):
        pass
    start = "select count(chimpbase.start_workflow($1, to_jsonb(n))) from generate_series(0, $2::int - 1) n"
    await stand.value(start, name, runs)


async def drained(stand: Stand) -> None:
    """Until no run lives."""
    # one connection for all looks: to connect for each takes from what is measured
    connection = await asyncpg.connect(stand.dsn)
    try:
        alive = "select not exists (select from chimpbase.run where finished_at is null)"
        await until(lambda: connection.fetchval(alive))
    finally:
        await connection.close()


async def _all_are(stand: Stand, state: str, runs: int) -> None:
    # rarely, for each look counts them all
    while await stand.value("select count(*) from chimpbase.run where state = $1", state) != runs:
        await asyncio.sleep(0.5)


async def drain(stand: Stand, runs: int) -> float:
    """Workflows per second from a full queue to an empty one, in this process."""
    done.clear()
    await fill(stand, "bench", runs)
    async with stand.running(App("bench", register=list(FLOWS)), log_level="error"):
        began = perf_counter()
        await drained(stand)
        seconds = perf_counter() - began
    await counted(stand, runs)
    return runs / seconds


async def sleeping(stand: Stand, runs: int) -> tuple[float, float]:
    """Bytes of this process for each run that sleeps, and its statements a second while they do."""
    await fill(stand, "bench.doze", runs)
    before = _resident()
    async with stand.running(App("bench", register=list(FLOWS)), log_level="error") as runtime:
        await _all_are(stand, "sleeping", runs)
        ear, began = listen(runtime), perf_counter()
        await asyncio.sleep(5)
        statements, grown = ear.heard / (perf_counter() - began), _resident() - before
    await stand.value(f"truncate {TABLES}")
    return grown / runs, statements


async def signalled(stand: Stand, runs: int, *, callers: int = 50) -> float:
    """Signals a second, each to a run that waits for it, until all of them have ended."""
    await fill(stand, "bench.wait", runs)
    app = App("bench", register=list(FLOWS))
    async with stand.running(app, log_level="error"):
        await _all_are(stand, "waiting", runs)
        ids = iter([run.id for run in await app.ctx.workflow.find("bench.wait", most=runs)])

        async def send() -> None:
            for id in ids:
                await app.ctx.workflow.signal(id, go, 1)

        began = perf_counter()
        await asyncio.gather(*(send() for _ in range(callers)))
        await drained(stand)
        seconds = perf_counter() - began
    ended = await stand.value("select count(*) from chimpbase.run where state = 'completed' and output = '1'")
    await stand.value(f"truncate {TABLES}")
    if ended != runs:
        raise RuntimeError(f"{runs} signals in, {ended} runs ended with theirs")
    return runs / seconds


async def bare(stand: Stand, *, rounds: int, at_once: int) -> float:
    """The raw limit: the same five statements in a loop, two connections, without the engine; workflows per second."""
    async with stand.running(App("bench", register=list(FLOWS)), workers=False):
        pass
    queue = await stand.queue("workflow:bench@1")
    pinned: dict[str, str] = dict.fromkeys(
        ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"), "off"
    )
    db = await Db.open(stand.dsn, size=2, session=pinned, application_name="bench")
    try:
        async with db.acquire() as connection:
            process = await processes.register(
                connection,
                app="bench",
                host="bench",
                pid=0,
                version="",
                lease=timedelta(minutes=5),
                queues=[QueueId(queue)],
            )
        lane = max(1, at_once // 2)
        began = perf_counter()
        lanes = [_bare_lane(db, process, QueueId(queue), rounds, lane, f"{n}") for n in range(1 if at_once == 1 else 2)]
        await asyncio.gather(*lanes)
        seconds = perf_counter() - began
        async with db.acquire() as connection:
            await processes.remove(connection, processes=[process])
    finally:
        await db.close(grace=timedelta(seconds=1))
    await counted(stand, rounds * lane * len(lanes), here=False)
    return rounds * lane * len(lanes) / seconds


async def _bare_lane(db: Db, process: ProcessId, queue: QueueId, rounds: int, many: int, name: str) -> None:
    for turn in range(rounds):
        new = [NewRun("bench", 1, queue, f"{name}/{turn}/{n}", str(n), None) for n in range(many)]
        async with db.acquire() as connection:
            born = await run_births.start(connection, new, process=process, leased=[True] * many)
        leases = [runs.Lease(process, one.job, 1, one.number) for one in born]
        now = born[0].started_at
        for seq, key in enumerate(("one#1", "two#1", "three#1")):
            memos = [
                runs.Memo(
                    lease,
                    StepMemo(key=key, seq=seq, kind="step", started_at=now, finished_at=now, digest=1, result="1"),
                )
                for lease in leases
            ]
            async with db.acquire() as connection:
                await runs.memo(connection, memos)
        async with db.acquire() as connection:
            await runs.finish(connection, [runs.Ending(lease, "completed", "1", None, None, "") for lease in leases])


def _resident() -> int:
    # what earlier measures left free would hide what the runs take
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
