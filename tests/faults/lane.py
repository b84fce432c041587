"""A lane: a process that plays one piece of work after another, on PostgreSQL servers that nobody shares with it.

It reads pieces from its standard input, a line of JSON each, answers each with the JSON of a `Result`, and ends, with
its servers, when the input does: so it outlives nobody.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import asyncpg

from chimpbase._pg.embedded import EmbeddedServer
from tests.faults import points
from tests.faults.battle import Result, fight
from tests.faults.rehearse import play
from tests.faults.scenes import SCENES
from tests.faults.shrinking import explained
from tests.faults.trials import TRIALS, hold

_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "300"}
_HONEST = {"max_connections": "300"}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a lane does at one time. `points` and `seeds` come in parts; `most`: how many of all, None for every one."""

    number: str
    seed: int
    jobs: int = 0
    seconds: float = 0.0
    most: int | None = None
    part: int = 0
    parts: int = 1

    @property
    def title(self) -> str:
        return self.number if self.parts == 1 else f"{self.number} {self.part + 1}/{self.parts}"


class Lane:
    """Its servers: one with an honest disk, one for what is not about the disk. Each is started when it is needed."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._directory, self._stack = directory, stack
        self._servers: dict[str, EmbeddedServer] = {}

    async def play(self, work: Work) -> Result:
        """Do it.  What goes wrong in the suite itself is a wrong of the work."""
        began = monotonic()
        try:
            result = await self._play(work)
        except Exception as error:
            result = Result(number=work.number, name="", wrong=[f"the suite itself: {type(error).__name__}: {error}"])
        result.number, result.seed, result.seconds = work.number, work.seed, monotonic() - began
        return result

    async def _play(self, work: Work) -> Result:
        match work.number:
            case "points":
                return await play_points(await self._server("fast"), work)
            case "seeds":
                return await play_seeds(await self._server("fast"), self._directory, work)
            case number if number in TRIALS:
                server = await self._server("honest")
                return await hold(number, server, self._directory, work.seed, work.jobs, work.seconds)
            case number:
                return await fight(
                    number.split("+"),
                    server=await self._server("honest"),
                    directory=self._directory,
                    seed=work.seed + work.part,
                    jobs=work.jobs,
                    seconds=work.seconds,
                )

    async def _server(self, kind: str) -> EmbeddedServer:
        if kind not in self._servers:
            settings = _FAST if kind == "fast" else _HONEST
            server = await EmbeddedServer.start(self._directory / kind, settings=settings)
            self._stack.push_async_callback(server.stop)
            self._servers[kind] = server
        return self._servers[kind]


async def play_points(server: EmbeddedServer, work: Work) -> Result:
    """Crash points of every `parts`-th scene: all, or as many as a seed chose."""
    theatre = points.Theatre(server.dsn)
    await theatre.open()
    try:
        every = await points.enumerate_points(theatre, SCENES[work.part :: work.parts])
        chosen = points.choose(every, work.most and work.most // work.parts, seed=work.seed)
        result = Result(number="points", name="crash points", done=len(chosen), of=len(every))
        for point in chosen:
            result.wrong += [f"seed {work.seed}, {wrong}" for wrong in await points.play(theatre, point)]
            result.hit("kills" if point.fault == "kill" else "resets")
    finally:
        await theatre.close()
    return result


async def play_seeds(server: EmbeddedServer, directory: Path, work: Work) -> Result:
    """Interleavings of three runtimes, a seed each."""
    result = Result(number="seeds", name="interleavings")
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(
        "create table if not exists ledger (who text, note text, at timestamptz default clock_timestamp())"
    )
    for seed in range(work.seed + work.part, work.seed + (work.most or 200), work.parts):
        result.done = result.of = result.done + 1
        await connection.execute("drop schema if exists chimpbase cascade; truncate ledger")
        # in a thread: it brings an event loop of its own
        played = await asyncio.to_thread(play, server.dsn, directory, seed)
        result.hit("statements", len(played.trace))
        if played.broken:
            result.wrong.append(await asyncio.to_thread(explained, server.dsn, directory, played, within_s=60))
    await connection.close()
    return result


async def _serve(answers: int) -> None:
    """Play until the input ends, be it in the middle of a piece."""
    async with AsyncExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True))
        os.chmod(name, 0o755)  # noqa: PTH101  # a pooler under another account reads its configuration here
        lane, todo = Lane(Path(name), stack), asyncio.Queue[str]()
        playing = asyncio.create_task(_play_all(lane, todo, answers))
        while line := await asyncio.to_thread(sys.stdin.readline):
            todo.put_nowait(line)
        playing.cancel()
        await asyncio.wait({playing})


async def _play_all(lane: Lane, todo: asyncio.Queue[str], answers: int) -> None:
    while True:
        result = await lane.play(Work(**json.loads(await todo.get())))
        os.write(answers, json.dumps(asdict(result)).encode() + b"\n")


def main() -> None:
    """The entry of the process."""
    logging.getLogger("chimpbase").setLevel(logging.CRITICAL)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    asyncio.run(_serve(answers))
    os._exit(0)  # a seed that was being played goes on in its thread


if __name__ == "__main__":
    main()
