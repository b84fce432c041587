"""The embedded server and the processes that start it: killed, started all at once, one after the other."""

# ruff: noqa: ASYNC240 - small files and short commands; nothing else runs on the loop meanwhile

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

import chimpbase._pg.embedded
from chimpbase._pg.embedded import EmbeddedServer
from chimpbase._pg.embedded_postmaster import read_postmaster
from tests.pg.embedded_project import ask, project_directory
from tests.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does a server end with its killed parent"),
]

SOURCE = Path(chimpbase._pg.embedded.__file__).parents[2]
PARENT = """
import asyncio, sys
from pathlib import Path
from chimpbase._pg.embedded import EmbeddedServer

async def main():
    server = await EmbeddedServer.start(Path(sys.argv[1]))
    print("owner" if server.owned else "guest", server.dsn, flush=True)
    while (order := (await asyncio.to_thread(sys.stdin.readline)).strip()):
        await getattr(server, order)()
        if order == "stop":
            print("stopped", flush=True)
            return
        print("owner" if server.owned else "guest", server.dsn, flush=True)

asyncio.run(main())
"""


@dataclass
class Parent:
    """A Python process with an EmbeddedServer of its own."""

    process: asyncio.subprocess.Process

    async def answer(self) -> list[str]:
        assert self.process.stdout
        return (await asyncio.wait_for(self.process.stdout.readline(), 30)).decode().split()

    async def order(self, word: str) -> list[str]:
        assert self.process.stdin
        self.process.stdin.write(f"{word}\n".encode())
        return await self.answer()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def project(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Path]:
    with project_directory(monkeypatch) as directory:
        yield directory
        await until(lambda: not _postmasters(directory))


@asynccontextmanager
async def _parent(data: Path) -> AsyncGenerator[Parent]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        data,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])},
    )
    try:
        yield Parent(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _postmasters(data: Path) -> list[int]:
    """Every process that was started as a server of `data`, or of something below it, and is no zombie."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"/postgres") and any(word.startswith(os.fsencode(data)) for word in command[1:]):
            found.append(int(process.name))
    return found


async def test_a_killed_parent_takes_its_server_along_and_leaves_the_data_whole(project: Path) -> None:
    data = project / "pg"
    async with _parent(data) as parent:
        _, dsn = await parent.answer()
        await ask(dsn, "create table kept as select 42 as answer")
        open_work = await asyncpg.connect(dsn)
        await open_work.execute("begin; update kept set answer = 0")
        await parent.kill()
        await until(lambda: not _postmasters(data), deadline_s=5)
        open_work.terminate()
    async with await EmbeddedServer.start(data) as server:
        assert server.owned
        assert await ask(server, "select answer from kept") == 42


async def test_parent_and_server_killed_together_recover_every_commit(project: Path) -> None:
    data = project / "pg"
    async with _parent(data) as parent:
        _, dsn = await parent.answer()
        await ask(dsn, "create table kept as select n from generate_series(1, 10000) n")
        os.kill(_postmasters(data)[0], signal.SIGKILL)
        await parent.kill()
    async with await EmbeddedServer.start(data) as server:
        assert await ask(server, "select count(*) from kept") == 10_000
        assert "not properly shut down" in server.log_file.read_text()


async def test_a_parent_that_leaves_without_stopping_takes_its_server_along(project: Path) -> None:
    data = project / "pg"
    async with _parent(data) as parent:
        await parent.answer()
        assert parent.process.stdin
        parent.process.stdin.close()
        assert await parent.process.wait() == 0
        await until(lambda: not _postmasters(data), deadline_s=5)
    assert not (data / "postmaster.pid").exists()


async def test_a_terminal_interrupt_does_not_reach_the_server(project: Path) -> None:
    data = project / "pg"
    async with _parent(data) as parent:
        await parent.answer()
        assert os.getsid(_postmasters(data)[0]) != os.getsid(parent.process.pid)


async def test_many_parents_at_once_get_one_server(project: Path) -> None:
    data = project / ".chimpbase" / "pg"
    async with _parent(data) as a, _parent(data) as b, _parent(data) as c, _parent(data) as d:
        answers = await asyncio.gather(*(parent.answer() for parent in (a, b, c, d)))
        assert sorted(word for word, _ in answers) == ["guest", "guest", "guest", "owner"]
        assert await asyncio.gather(*(ask(dsn, "select 1") for _, dsn in answers)) == [1, 1, 1, 1]
        assert len(_postmasters(data)) == 1
        assert not list(data.parent.glob(".pg.unfinished-*"))


async def test_a_guest_takes_over_when_the_owner_is_killed(project: Path) -> None:
    data = project / "pg"
    async with _parent(data) as owner:
        assert (await owner.answer())[0] == "owner"
        async with _parent(data) as guest:
            word, dsn = await guest.answer()
            assert word == "guest"
            await ask(dsn, "create table kept as select 42 as answer")
            await owner.kill()
            word, dsn = await guest.order("ensure")
            assert word == "owner"
            assert await ask(dsn, "select answer from kept") == 42
            assert len(_postmasters(data)) == 1


async def test_of_many_guests_one_takes_over_and_the_rest_follow(project: Path) -> None:
    data = project / "pg"
    async with _parent(data) as owner:
        await owner.answer()
        async with _parent(data) as a, _parent(data) as b, _parent(data) as c:
            await asyncio.gather(*(guest.answer() for guest in (a, b, c)))
            assert await owner.order("stop") == ["stopped"]
            answers = await asyncio.gather(*(guest.order("ensure") for guest in (a, b, c)))
            assert sorted(word for word, _ in answers) == ["guest", "guest", "owner"]
            assert await asyncio.gather(*(ask(dsn, "select 1") for _, dsn in answers)) == [1, 1, 1]
            assert len(_postmasters(data)) == 1


async def test_a_guest_that_stops_leaves_the_server_to_its_owner(project: Path) -> None:
    data = project / "pg"
    async with _parent(data) as owner:
        _, dsn = await owner.answer()
        async with _parent(data) as guest:
            await guest.answer()
            assert await guest.order("stop") == ["stopped"]
        assert await ask(dsn, "select 1") == 1
        assert await owner.order("stop") == ["stopped"]
        assert not _postmasters(data)


@pytest.mark.parametrize(
    "stage", ["", "/PG_VERSION", "/base/1/PG_VERSION", "/base/5", "/base/16384", "/postmaster.pid"]
)
async def test_a_parent_killed_while_it_makes_the_data_leaves_nothing_that_confuses(project: Path, stage: str) -> None:
    data = project / "pg"
    async with _parent(data) as parent:
        await until(lambda: list(project.glob(f".pg.unfinished-*{stage}")) or data.exists())
        await parent.kill()
    async with await EmbeddedServer.start(data) as server:
        assert server.owned
        assert await ask(server, "select current_database()") == "chimpbase"
    assert {path.name for path in project.iterdir()} == {"pg", "pg.lock", "pg.log"}


async def test_killing_parents_over_and_over_never_loses_a_commit_or_doubles_a_server(project: Path) -> None:
    data, rounds = project / "pg", 6
    async with await EmbeddedServer.start(data) as server:
        await ask(server, "create table kept (n int)")
    for n in range(rounds):
        async with _parent(data) as first, _parent(data) as second:
            answers = await asyncio.gather(first.answer(), second.answer())
            await ask(answers[n % 2][1], f"insert into kept values ({n}) returning n")
            assert len(_postmasters(data)) == 1
            owner = first if answers[0][0] == "owner" else second
            survivor = second if owner is first else first
            await owner.kill()
            word, dsn = await survivor.order("ensure")
            assert word == "owner"
            assert await ask(dsn, "select count(*) from kept") == n + 1
            await survivor.kill()
    await until(lambda: read_postmaster(data) is None)
