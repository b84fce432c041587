"""The embedded server when something is in its way: it recovers, or says in one sentence what to do."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - small files and short commands; nothing else runs on the loop meanwhile

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chimpbase._core.errors import ConfigError
from chimpbase._pg.binaries import find_binaries
from chimpbase._pg.embedded import EmbeddedServer
from chimpbase._pg.embedded_account import choose_account
from chimpbase._pg.embedded_postmaster import read_postmaster
from tests.pg.embedded_project import ask, project_directory, sockets_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with project_directory(monkeypatch) as directory:
        yield directory


@pytest.fixture(scope="module")
async def template() -> AsyncGenerator[Path]:
    """A cluster that was stopped cleanly, to be copied."""
    with project_directory() as directory:
        async with await EmbeddedServer.start(directory / "pg"):
            pass
        yield directory / "pg"


@pytest.fixture
def data(template: Path, project: Path) -> Path:
    subprocess.run(["cp", "-a", template, project / "pg"], check=True)
    return project / "pg"


def _pid(directory: Path) -> int:
    postmaster = read_postmaster(directory)
    assert postmaster
    return postmaster.pid


@pytest.mark.parametrize("name", ["listen_addresses", "PORT", "no name", "-D"])
async def test_a_setting_the_server_decides_itself_is_refused(data: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"setting {name!r} cannot be given"):
        await EmbeddedServer.start(data, settings={name: "1"})


async def test_a_bad_setting_is_answered_with_the_end_of_the_log(data: Path) -> None:
    with pytest.raises(ConfigError, match=r'stopped while it was starting(.|\n)*parameter "fsync" requires a Boolean'):
        await EmbeddedServer.start(data, settings={"fsync": "perhaps"})
    async with await EmbeddedServer.start(data) as server:
        assert server.owned


async def test_ensure_starts_a_killed_server_again_without_losing_a_commit(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        await ask(server, "create table kept as select 42 as answer")
        os.kill(_pid(data), signal.SIGKILL)
        await asyncio.gather(*(server.ensure() for _ in range(5)))
        assert server.owned
        assert await ask(server, "select answer from kept") == 42


async def test_ensure_replaces_a_server_whose_socket_was_deleted(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        shutil.rmtree(sockets_of(server))
        await server.ensure()
        assert await ask(server, "select 1") == 1


async def test_a_server_with_no_connection_to_spare_still_counts_as_running(data: Path) -> None:
    async with await EmbeddedServer.start(data, settings={"max_connections": "4"}) as server:
        connections = [await asyncpg.connect(server.dsn) for _ in range(4)]
        pid = _pid(data)
        await server.ensure()
        async with await EmbeddedServer.start(data) as second:
            assert not second.owned
        assert _pid(data) == pid
        for connection in connections:
            await connection.close()


async def test_a_start_that_is_cancelled_leaves_nothing(project: Path) -> None:
    task = asyncio.create_task(EmbeddedServer.start(project / "pg"))
    await until(lambda: list(project.glob(".pg.unfinished-*/global/pg_control")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {path.name for path in project.iterdir()} == {"pg.lock", "pg.log"}
    async with await EmbeddedServer.start(project / "pg") as server:
        assert server.owned


async def test_a_stale_pid_file_of_a_dead_process_is_no_obstacle(data: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    _write_pid_file(data, dead.pid)
    async with await EmbeddedServer.start(data) as server:
        assert server.owned
        assert await ask(server, "select 1") == 1


async def test_a_pid_file_whose_number_was_given_to_another_process_is_no_obstacle(data: Path) -> None:
    owner = choose_account(data)
    credentials: dict[str, Any] = {"user": owner.uid, "group": owner.gid} if owner.dropped else {}
    with subprocess.Popen(["sleep", "600"], cwd="/", **credentials) as stranger:
        try:
            _write_pid_file(data, stranger.pid)
            async with await EmbeddedServer.start(data) as server:
                assert server.owned
                assert await ask(server, "select 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_a_pid_file_that_a_crash_left_empty_is_no_obstacle(data: Path) -> None:
    (data / "postmaster.pid").write_text("")
    async with await EmbeddedServer.start(data) as server:
        assert server.owned


async def test_a_server_somebody_started_by_hand_is_used_and_left_running(data: Path, project: Path) -> None:
    owner = choose_account(data)
    credentials: dict[str, Any] = {"user": owner.uid, "group": owner.gid, "extra_groups": []} if owner.dropped else {}
    sockets = project / "s"
    sockets.mkdir(mode=0o700)
    owner.give(sockets)
    postgres = find_binaries(environ={}).directory / "postgres"
    with subprocess.Popen(
        [postgres, "-D", data, "-h", "", "-p", "6543", "-k", sockets], cwd="/", stderr=subprocess.DEVNULL, **credentials
    ) as stranger:
        try:
            await until(lambda: (found := read_postmaster(data)) and found.ready)
            async with await EmbeddedServer.start(data) as server:
                assert not server.owned
                assert await ask(server, "select 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.send_signal(signal.SIGQUIT)


async def test_data_of_another_major_version_is_not_touched(data: Path) -> None:
    (data / "PG_VERSION").write_text("12\n")
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    with pytest.raises(ConfigError, match="made by PostgreSQL 12, and the programs found are .* Nothing was touched"):
        await EmbeddedServer.start(data)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


async def test_a_directory_with_other_things_in_it_is_not_touched(project: Path) -> None:
    (project / "pg").mkdir()
    (project / "pg" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and is no PostgreSQL data directory"):
        await EmbeddedServer.start(project / "pg")
    assert [path.name for path in (project / "pg").iterdir()] == ["notes.txt"]


async def test_a_data_directory_that_cannot_be_written_is_named(data: Path) -> None:
    data.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written by"):
        await EmbeddedServer.start(data)
    data.chmod(0o700)


async def test_a_place_where_no_directory_can_be_made_is_named(project: Path) -> None:
    (project / "file").write_text("")
    with pytest.raises(ConfigError, match="Cannot make .*file.* DATABASE_URL"):
        await EmbeddedServer.start(project / "file" / "pg")


async def test_missing_programs_are_named(project: Path) -> None:
    with pytest.raises(ConfigError, match="binaries is .* no `postgres`"):
        await EmbeddedServer.start(project / "pg", binaries=project)


async def test_a_project_with_a_long_path_gets_a_short_socket(template: Path, project: Path) -> None:
    deep = project.joinpath(*["a" * 100] * 3)
    deep.mkdir(parents=True)
    subprocess.run(["cp", "-a", template, deep / "pg"], check=True)
    async with await EmbeddedServer.start(deep / "pg") as server:
        assert await ask(server, "select 1") == 1


async def test_a_temporary_directory_too_long_for_a_socket_is_passed_over(data: Path, project: Path) -> None:
    long = project / ("t" * 100)
    long.mkdir()
    async with await EmbeddedServer.start(data, environ={"TMPDIR": str(long)}) as server:
        assert "host=/tmp/chimpbase-" in server.dsn


async def test_a_socket_directory_somebody_else_made_is_not_used(data: Path, project: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        name = sockets_of(server).name
        assert sockets_of(server) == project / name
    (project / name).symlink_to(data.parent)
    async with await EmbeddedServer.start(data) as server:
        assert sockets_of(server) == Path("/tmp") / name
    (project / name).unlink()
    assert not (project / ".s.PGSQL.5432").exists()


def _write_pid_file(data: Path, pid: int) -> None:
    owner = data.stat()
    path = data / "postmaster.pid"
    path.write_text(f"{pid}\n{data}\n1700000000\n5432\n/tmp\n\n  5432001    98304\nready   \n")
    path.chmod(0o600)
    os.chown(path, owner.st_uid, owner.st_gid)
