"""Crash points: each scene is played once for every statement, moment and fault, and must always end the same.

The statements of a scene are counted by playing it once without a fault. Then a process that plays it is killed with
SIGKILL (and another one goes on), or loses its connection (and goes on itself), at each of them.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import random
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from chimpbase import App
from tests.faults.invariants import one_query
from tests.faults.planting import KILL, Bomb, planted
from tests.faults.scenes import SCENES, Scene, act, build
from tests.faults.victim import PACE, main
from tests.running import left_over, the_value
from tests.waiting import until

MOMENTS = ("before", "unanswered", "answered")
FAULTS = (KILL, "reset")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.victim", "asyncpg", "chimpbase"])


@dataclass(frozen=True, kw_only=True)
class Point:
    scene: Scene
    fault: str
    moment: str
    at: int

    def __str__(self) -> str:
        return f"{self.scene.name}, {self.fault} at statement {self.at}, {self.moment}"


class Theatre:
    """Databases to play in, made from one that has the schema already."""

    def __init__(self, server_dsn: str) -> None:
        self._server_dsn = server_dsn
        self._template = f"scenes_{uuid4().hex[:8]}"

    async def open(self) -> None:
        connection = await asyncpg.connect(self._server_dsn)
        try:
            await connection.execute(f"create database {self._template} template template0")
        finally:
            await connection.close()
        dsn = self._dsn(self._template)
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(
                "create table ledger (who text, note text, at timestamptz default clock_timestamp())"
            )
        finally:
            await connection.close()
        async with build().running(database_url=dsn, workers=False, project=Path(tempfile.gettempdir()), **PACE):
            pass

    async def close(self) -> None:
        connection = await asyncpg.connect(self._server_dsn)
        try:
            await connection.execute(f"drop database if exists {self._template} with (force)")
        finally:
            await connection.close()

    @asynccontextmanager
    async def stage(self, *, empty: bool) -> AsyncGenerator[str]:
        """The DSN of a fresh database; `empty` of everything but the ledger's table."""
        name = f"scene_{uuid4().hex[:12]}"
        house = await asyncpg.connect(self._server_dsn)
        try:
            await house.execute(f"create database {name} template {'template0' if empty else self._template}")
            if empty:
                connection = await asyncpg.connect(self._dsn(name))
                await connection.execute(
                    "create table ledger (who text, note text, at timestamptz default clock_timestamp())"
                )
                await connection.close()
            yield self._dsn(name)
        finally:
            await house.execute(f"drop database if exists {name} with (force)")
            await house.close()

    def _dsn(self, name: str) -> str:
        return urlunsplit(urlsplit(self._server_dsn)._replace(path=f"/{name}"))


async def count(theatre: Theatre, scene: Scene) -> int:
    """How many statements the scene has where the fault is to hit."""
    bomb = Bomb(kind="none", moment="before", at=0, labels=scene.labels)
    await _play_here(theatre, scene, bomb)
    return bomb.seen


async def enumerate_points(theatre: Theatre, scenes: Sequence[Scene] = SCENES) -> list[Point]:
    """All points of these scenes."""
    found: list[Point] = []
    for scene in scenes:
        for at in range(1, await count(theatre, scene) + 1):
            found += [Point(scene=scene, fault=fault, moment=moment, at=at) for fault in FAULTS for moment in MOMENTS]
    return found


def choose(points: Sequence[Point], most: int | None, *, seed: int) -> list[Point]:
    """All of them, or `most`, chosen by a seed: as many of each scene as can be."""
    dice = random.Random(seed)
    shuffled = list(points)
    dice.shuffle(shuffled)
    if most is None or most >= len(points):
        return shuffled
    by_scene: dict[str, list[Point]] = {}
    for point in shuffled:
        by_scene.setdefault(point.scene.name, []).append(point)
    chosen: list[Point] = []
    while len(chosen) < most:
        for one in by_scene.values():
            if one and len(chosen) < most:
                chosen.append(one.pop())
    return chosen


async def play(theatre: Theatre, point: Point) -> list[str]:
    """Play the scene with the fault at that point: what is wrong afterwards, nothing if all is well."""
    try:
        if point.fault == KILL:
            return await _play_there(theatre, point)
        bomb = Bomb(kind=point.fault, moment=point.moment, at=point.at, labels=point.scene.labels)
        return await _play_here(theatre, point.scene, bomb)
    except (AssertionError, Exception) as error:
        return [f"{point}: {type(error).__name__}: {error}"]


async def _play_here(theatre: Theatre, scene: Scene, bomb: Bomb) -> list[str]:
    """In this process, which loses connections and goes on."""
    async with theatre.stage(empty=scene.empty) as dsn:
        outside = await asyncpg.connect(dsn)
        said = "ok"
        try:
            bomb.armed = scene.armed == "start"
            with planted(bomb, where=scene.where):
                app, leave = await _started(dsn)
                try:
                    bomb.armed = bomb.armed or scene.armed == "ready"
                    if scene.arrange:
                        await scene.arrange(outside)
                    if scene.act:
                        said = await act(app)
                    await until(lambda: at_rest(outside, scene, sure=said == "ok"), deadline_s=15)
                    bomb.armed = scene.armed in {"start", "stop"} or (bomb.armed and bomb.at != 0)
                finally:
                    await leave()
            return await verdict(outside, scene, sure=said == "ok")
        finally:
            await outside.close()


async def _started(dsn: str) -> tuple[App, Callable[[], Awaitable[object]]]:
    """A running app, and how to stop it. Whatever connection ends while it starts, it starts."""
    app, stack = build(), AsyncExitStack()
    await stack.enter_async_context(app.running(database_url=dsn, project=Path(tempfile.gettempdir()), **PACE))
    return app, stack.aclose


async def _play_there(theatre: Theatre, point: Point) -> list[str]:
    """In a process of its own, which is killed; then this process goes on."""
    scene, directory = point.scene, Path(tempfile.mkdtemp(prefix="scene-"))
    ours, theirs = _context.Pipe()
    order = {
        "where": scene.where,
        "moment": point.moment,
        "at": point.at,
        "labels": list(scene.labels),
        "armed": scene.armed,
        "directory": str(directory),
    }
    async with theatre.stage(empty=scene.empty) as dsn:
        outside = await asyncpg.connect(dsn)
        victim = _context.Process(target=main, args=(dsn, order, theirs), daemon=True)
        victim.start()
        theirs.close()
        try:
            sure = await _drive(scene, victim, ours, outside, dsn, directory)
            victim.kill()
            victim.join()
            _, leave = await _started(dsn)
            try:
                if scene.armed == "start" and scene.arrange and not sure:
                    await scene.arrange(outside)
                sure = sure or not scene.act
                await until(lambda: at_rest(outside, scene, sure=sure), deadline_s=15)
            finally:
                await leave()
            return await verdict(outside, scene, sure=sure)
        finally:
            victim.kill()
            victim.join()
            ours.close()
            await outside.close()
            shutil.rmtree(directory, ignore_errors=True)


async def _drive(scene: Scene, victim: Any, line: Any, outside: asyncpg.Connection, dsn: str, directory: Path) -> bool:
    """Lead the victim to its point. Whether it said that all was done, or the scene was arranged."""
    lived = await _hear(victim, line, outside, dsn, directory)
    if lived is None:
        return False
    if scene.arrange:
        await scene.arrange(outside)
    if scene.act:
        line.send("act")
        return await _hear(victim, line, outside, dsn, directory) == "ok"
    if scene.armed == "stop":
        await until(lambda: at_rest(outside, scene, sure=True), deadline_s=15)
        line.send("stop")
        await _hear(victim, line, outside, dsn, directory)
        return True
    done = False
    while victim.is_alive() and not done:
        await _block_the_way(outside, dsn, directory, victim)
        await until(
            lambda: not victim.is_alive() or (directory / "at the point").exists() or _always(),
            deadline_s=15,
        )
        done = await at_rest(outside, scene, sure=True)
    return True


def _always() -> bool:
    return True


async def _hear(victim: Any, line: Any, outside: asyncpg.Connection, dsn: str, directory: Path) -> str | None:
    """The next thing it says; None when it died first."""
    while not line.poll():
        if not victim.is_alive():
            return None
        await _block_the_way(outside, dsn, directory, victim)
        await asyncio.sleep(0)
    try:
        return line.recv()
    except EOFError:
        return None


async def _block_the_way(outside: asyncpg.Connection, dsn: str, directory: Path, victim: Any) -> None:
    """If the victim stands at a point "unanswered": hold its statement up in the server, kill it there, and let go.

    The statement then goes on without a client. Where its tables cannot be locked (its own transaction holds them), the
    victim dies when it has the answer instead.
    """
    if not (directory / "at the point").exists():
        await outside.execute("select pg_sleep(0.01)")
        return
    (directory / "at the point").unlink()
    blocker = await asyncpg.connect(dsn)
    try:
        await blocker.execute("set lock_timeout = '200ms'")
        try:
            await blocker.execute(
                "begin; lock table chimpbase.job, chimpbase.run, chimpbase.step in access exclusive mode"
            )
        except asyncpg.PostgresError:
            (directory / "go").touch()
            return
        (directory / "go").touch()
        try:
            await until(lambda: _waits(outside), deadline_s=0.5)
        except AssertionError:
            return  # it needs none of these tables, and dies with its answer
        victim.kill()
        victim.join()
    finally:
        await blocker.close()


async def _waits(outside: asyncpg.Connection) -> bool:
    return await the_value(
        outside,
        """
        select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')
    """,
    )


async def at_rest(outside: asyncpg.Connection, scene: Scene, *, sure: bool) -> bool:
    """Whether nothing moves any more, and what was to be done is done."""
    try:
        busy = await outside.fetchval("""
            select exists (
                select from chimpbase.job union all select from chimpbase.job_wait
                union all select from chimpbase.job_later)
              or exists (select from chimpbase.run where finished_at is null)
        """)
        found = [row[0] for row in await outside.fetch("select note from ledger")]
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return False
    return not busy and bool(not sure or len(found) >= len(scene.notes))


async def verdict(outside: asyncpg.Connection, scene: Scene, *, sure: bool) -> list[str]:
    """What is wrong in the end."""
    found = sorted(row[0] for row in await outside.fetch("select note from ledger"))
    left = await left_over(outside)
    wanted: list[tuple[list[str], dict[str, int]]] = [(sorted(scene.notes), dict(scene.left))]
    if scene.unsure and not sure:
        wanted.append(([], {}))
    wrong = [] if (found, left) in wanted else [f"{scene.name}: found {found} and {left}, wanted {wanted}"]
    wrong += [f"{scene.name}: {rule}: {what}" for rule, what in await outside.fetch(one_query())]
    held = await outside.fetchval("select count(*) from pg_prepared_xacts")
    return wrong + ([f"{scene.name}: {held} prepared transactions"] if held else [])


def quiet() -> None:
    """What the faults make the program say is not what this is about."""
    logging.getLogger("chimpbase").setLevel(logging.CRITICAL)
