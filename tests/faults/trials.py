"""Trials: faults that need an arena of their own: poison, memory, a full disk, a herd, edits by hand, four members."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from time import monotonic

import asyncpg

from chimpbase._pg.embedded import EmbeddedServer
from tests.faults.arena import Arena, arena_of, connected
from tests.faults.battle import Result, judge
from tests.faults.flood import LIMIT, POISONS
from tests.running import the_value
from tests.waiting import passing, until

Trial = Callable[[EmbeddedServer, Path, int, int, float], Awaitable[Result]]
TRIALS: dict[str, tuple[str, Trial]] = {}


def trial(number: str, name: str) -> Callable[[Trial], Trial]:
    def register(run: Trial) -> Trial:
        TRIALS[number] = (name, run)
        return run

    return register


async def hold(number: str, server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    """Run one trial. `jobs` and `seconds` are its size."""
    name, run = TRIALS[number]
    began = monotonic()
    try:
        result = await run(server, directory, seed, jobs, seconds)
    except Exception as error:
        result = Result(number=number, name=name, wrong=[f"the suite itself: {type(error).__name__}: {error}"])
    result.number, result.name, result.seed, result.seconds = number, name, seed, monotonic() - began
    return result


@trial("F14", "handlers that take all memory (RLIMIT_AS)")
async def starve(server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    async with arena_of(server, directory, seed=seed, size=1, seconds=seconds) as arena:
        for member in arena.alive:
            await member.stop()
        await arena.recruit(memory_mb=3000)
        connection = await arena.connect()
        await connection.execute("select chimpbase.enqueue('hungry', '8000') from generate_series(1, 5)")
        await arena.produce(jobs)
        await until(lambda: _dead(connection, 5), deadline_s=30)
        reasons = await connection.fetch("select distinct reason from chimpbase.job_dead")
        await connection.execute("delete from chimpbase.job_dead")
        await connection.close()
        result = await judge(arena, jobs)
        result.hits = {"hungry jobs": 5}
        if [row[0] for row in reasons] != ["exhausted"]:
            result.wrong.append(f"hungry jobs ended as {reasons}")
        return result


@trial("F15", "poison: what kills its process, its connection or its transaction")
async def poison(server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    async with arena_of(server, directory, seed=seed, size=3, seconds=seconds) as arena:
        connection = await arena.connect()
        for kind in POISONS:
            await connection.execute("select chimpbase.enqueue('poison', to_jsonb($1::text))", kind)
        producer = asyncio.create_task(arena.produce(jobs))
        deadline = monotonic() + 60
        while not await _dead(connection, len(POISONS)) and monotonic() < deadline:
            await arena.muster()
            await passing(0.05)
        await producer
        rows = await connection.fetch("select payload, reason from chimpbase.job_dead where payload like '\"%'")
        found = {row[0].strip('"'): row[1] for row in rows}
        wanted = {kind: "crashed" if kind in {"exit", "kill", "segv", "interrupt"} else "exhausted" for kind in POISONS}
        await connection.execute("delete from chimpbase.job_dead where payload like '\"%'")
        await connection.close()
        await arena.muster()
        result = await judge(arena, jobs)
        result.hits = {"poisons": len(POISONS)}
        if found != wanted:
            result.wrong.append(f"poison ended as {found}, not as {wanted}")
        return result


async def _dead(connection: asyncpg.Connection, n: int) -> bool:
    sql = "select count(*) from chimpbase.job_dead where payload like '\"%' or payload = '8000'"
    return await the_value(connection, sql) >= n


@trial("F13", "disk full, and space again")
async def fill_disk(server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    del server
    place = directory / f"small-disk-{seed}"
    place.mkdir()
    if not _mount(place):
        return Result(number="F13", name="", skipped="only root can mount a small disk")
    try:
        small = await EmbeddedServer.start(place / "data", settings={"max_wal_size": "64MB", "wal_recycle": "off"})
        try:
            return await _fight_for_space(small, place, directory, seed, jobs, seconds)
        finally:
            await small.stop()
    finally:
        _unmount(place)


def _mount(place: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "none", str(place)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


async def _fight_for_space(
    server: EmbeddedServer, place: Path, directory: Path, seed: int, jobs: int, seconds: float
) -> Result:
    async with arena_of(server, directory, seed=seed, size=2, seconds=seconds) as arena:
        await arena.muster()
        producer = asyncio.create_task(arena.produce(jobs))
        ballast = server.data_directory / "ballast"
        for _ in range(3):
            await passing(seconds / 6)
            with ballast.open("wb") as file:
                file.truncate(0)
                try:
                    os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free)
                except OSError:
                    continue
            arena.hit("times full")
            await passing(seconds / 6)
            ballast.unlink()
            await server.ensure()
        await producer
        return await judge(arena, jobs)


@trial("F21", "a herd: all jobs are there, then all processes start at once")
async def stampede(server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    async with arena_of(server, directory, seed=seed, size=8, seconds=0) as arena:
        for member in arena.alive:
            await member.stop()
        await arena.produce(jobs)
        started = await asyncio.gather(*(arena.recruit() for _ in range(arena.size)))
        arena.hit("processes", len([member for member in started if member]))
        connection = await arena.connect()
        sql = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        connections = await the_value(connection, sql)
        await connection.close()
        result = await judge(arena, jobs)
        if connections > arena.size * 20:
            result.wrong.append(f"{connections} connections for {arena.size} processes")
        return result


@trial("F26", "the parent of an embedded server killed (SIGKILL), two parents at once")
async def orphan(server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    """Whatever a parent was told is written, is there under the next one. `jobs` are not played here."""
    del server, jobs
    dice, data, told = random.Random(seed), directory / f"f26-{seed}", list[int]()
    result, numbers = Result(number="F26", name=""), count(0, 1_000_000)
    deadline = monotonic() + seconds
    while monotonic() < deadline or not told:
        parents = [await _parent(data, next(numbers)) for _ in range(dice.choice([1, 1, 2]))]
        enough = len(told) + 1
        listening = [asyncio.create_task(_hear(parent, told)) for parent in parents]
        if dice.random() < 0.7:  # else it dies while it begins
            await until(lambda enough=enough: len(told) >= enough, deadline_s=40)
        await passing(dice.uniform(0, 1))
        for parent in parents:
            parent.kill()
            await parent.wait()
            result.hit("kills of parents")
        await asyncio.gather(*listening)
    own = await EmbeddedServer.start(data)
    try:
        connection = await connected(own.dsn)
        found = [row[0] for row in await connection.fetch("select n from written order by n")]
        await connection.close()
    finally:
        await own.stop()
    result.hit("rows", len(told))
    lost, doubled = sorted({*told} - {*found}), len(found) - len({*found})
    result.wrong += [f"seed {seed}, rows that were written are gone: {lost[:10]}"] if lost else []
    result.wrong += [f"seed {seed}, {doubled} rows are there twice"] if doubled else []
    return result


async def _parent(data: Path, first: int) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "tests.faults.parent", str(data), str(first))
    nowhere = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=nowhere)


async def _hear(parent: asyncio.subprocess.Process, told: list[int]) -> None:
    """What it says it has written. A line that its death cuts short does not count."""
    assert parent.stdout is not None
    while (line := await parent.stdout.readline()).endswith(b"\n"):
        told.append(int(line))


@trial("F27", "rows deleted and changed by hand, tables truncated, ids from 2^53")
async def meddle(server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    edits = (
        "delete from chimpbase.process where id in (select id from chimpbase.process order by random() limit 1)",
        "update chimpbase.process set dead_at = now() where id in (select id from chimpbase.process limit 1)",
        "update chimpbase.process set beat_at = now() - interval '1 hour'",
        "truncate chimpbase.job_dead",
        "update chimpbase.job set crashes = 0, errors = null where process is null",
        "update chimpbase.job_later set due_at = now() - interval '1 year' where due_at < 'infinity'",
        "vacuum full chimpbase.job",
        "reindex table chimpbase.job",
    )
    async with arena_of(server, directory, seed=seed, size=3, seconds=seconds) as arena:
        connection = await arena.connect()
        await connection.execute("select setval('chimpbase.job_id', 9007199254740992)")
        await arena.muster()
        producer = asyncio.create_task(arena.produce(jobs))
        while not producer.done():
            try:
                await connection.execute(arena.dice.choice(edits))
                arena.hit("edits")
            except asyncpg.PostgresError:  # it waited for somebody, who waited for it
                arena.hit("edits refused")
            await passing(0.2)
        await connection.close()
        arena.deadlocks_are_mine = True
        # what an edit orphaned is looked for once a minute, and by every process that starts
        await arena.recruit()
        return await judge(arena, jobs)


@trial("four", "four processes, one killed every second")
async def four(server: EmbeddedServer, directory: Path, seed: int, jobs: int, seconds: float) -> Result:
    async with arena_of(server, directory, seed=seed, size=4, seconds=seconds) as arena:
        await arena.muster()
        producer = asyncio.create_task(arena.produce(jobs))
        watcher = asyncio.create_task(_watch_limits(arena))
        while not producer.done():
            await passing(1.0)
            if spare := arena.spare:
                await arena.kill(arena.dice.choice(spare))
            arena.reinforce()
        await producer
        result = await judge(arena, jobs)
        arena.over.set()
        result.wrong += await watcher
        return result


async def _watch_limits(arena: Arena) -> list[str]:
    """Look again and again how many jobs of the limited queue run at once in all processes."""
    connection = await arena.connect()
    wrong: list[str] = []
    sql = """
        select count(*) from chimpbase.job join chimpbase.queue on queue.id = job.queue
        where queue.name = 'limited' and process is not null
    """
    while await arena.until_over(0.01):
        running = await the_value(connection, sql)
        if running > LIMIT:
            wrong.append(f"{running} jobs of a queue that allows {LIMIT} ran at once")
    await connection.close()
    return wrong
