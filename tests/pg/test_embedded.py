"""The embedded server in one process: start, connect, ensure, stop."""

# ruff: noqa: ASYNC240 - small files and short commands; nothing else runs on the loop meanwhile

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import asyncpg
import pytest

from chimpbase._core.errors import NotStarted, WrongState
from chimpbase._pg.binaries import find_binaries
from chimpbase._pg.embedded import EmbeddedServer
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


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_first_start_makes_a_database_and_the_next_one_keeps_it(project: Path) -> None:
    async with await EmbeddedServer.start(project / ".chimpbase" / "pg") as server:
        assert server.owned
        assert server.data_directory == project / ".chimpbase" / "pg"
        await ask(server, "create table kept as select 42 as answer")
        assert (await ask(server, "show server_version")).startswith(server.version)
    async with await EmbeddedServer.start(project / ".chimpbase" / "pg") as server:
        assert await ask(server, "select answer from kept") == 42
    left = {path.name for path in (project / ".chimpbase").iterdir()}
    assert left == {"pg", "pg.lock", "pg.log"}


async def test_the_database_is_durable_closed_to_the_network_and_sorted_by_code_point(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        connection = await asyncpg.connect(server.dsn)
        try:
            settings = dict(await connection.fetch("select name, setting from pg_settings"))
            row = await connection.fetchrow(
                "select current_database(), current_user, pg_encoding_to_char(encoding), datlocprovider, datlocale"
                " from pg_database where datname = current_database()"
            )
        finally:
            await connection.close()
    durable = {name: settings[name] for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")}
    assert durable == dict.fromkeys(durable, "on")
    assert (settings["listen_addresses"], settings["TimeZone"], settings["jit"]) == ("", "UTC", "off")
    assert tuple(row) == ("chimpbase", "chimpbase", "UTF8", b"b", "C.UTF-8")


async def test_the_socket_lies_in_a_closed_directory_of_the_server_account(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        directory = sockets_of(server)
        info = directory.lstat()
        assert info.st_mode & 0o777 == 0o700
        assert info.st_uid == data.stat().st_uid
        assert (directory / ".s.PGSQL.5432").is_socket()
    assert not directory.exists()


async def test_the_socket_stays_where_it_was_when_the_next_owner_has_another_environment(
    data: Path, project: Path
) -> None:
    (project / "t").mkdir(mode=0o755)
    async with await EmbeddedServer.start(data) as server:
        before = server.dsn
    async with await EmbeddedServer.start(data, environ={"TMPDIR": str(project / "t")}) as server:
        assert server.dsn == before


async def test_psql_takes_the_dsn(data: Path) -> None:
    psql = find_binaries(environ={}).directory / "psql"
    async with await EmbeddedServer.start(data) as server:
        answer = await asyncio.to_thread(
            subprocess.run, [psql, "-XAtc", "select 1 + 1", server.dsn], capture_output=True, text=True
        )
    assert (answer.stdout, answer.stderr) == ("2\n", "")


async def test_settings_go_over_the_defaults(data: Path) -> None:
    async with await EmbeddedServer.start(data, settings={"fsync": "off", "max_connections": "17"}) as server:
        assert await ask(server, "show fsync") == "off"
        assert await ask(server, "show max_connections") == "17"


async def test_stopping_twice_is_stopping_once_and_ends_clients(data: Path) -> None:
    server = await EmbeddedServer.start(data)
    pid = _pid(data)
    connection = await asyncpg.connect(server.dsn)
    await asyncio.gather(server.stop(), server.stop())
    assert not _is_running(pid)
    assert not (data / "postmaster.pid").exists()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("select 1")
    with pytest.raises(NotStarted):
        await server.ensure()
    with pytest.raises(NotStarted):
        assert server.dsn


async def test_a_second_start_connects_to_the_first_and_does_not_stop_it(data: Path) -> None:
    async with await EmbeddedServer.start(data) as first:
        async with await EmbeddedServer.start(data) as second:
            assert (second.owned, second.dsn, second.version) == (False, first.dsn, first.version)
        assert await ask(first, "select 1") == 1


async def test_another_spelling_of_the_directory_is_the_same_server(data: Path, project: Path) -> None:
    (project / "link").symlink_to(data)
    async with await EmbeddedServer.start(data) as first, await EmbeddedServer.start(project / "link") as second:
        assert (second.owned, second.dsn) == (False, first.dsn)


async def test_ensure_changes_nothing_where_the_server_answers(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        pid = _pid(data)
        await asyncio.gather(*(server.ensure() for _ in range(5)))
        assert _pid(data) == pid


async def test_a_server_started_from_a_thread_that_ended_keeps_running(data: Path) -> None:
    started: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: started.append(asyncio.run(EmbeddedServer.start(data))))
    thread.start()
    await asyncio.to_thread(thread.join)
    async with started[0] as server:
        for _ in range(3):
            assert await ask(server, "select 1") == 1


async def test_the_event_loop_is_not_blocked_by_a_first_start(project: Path) -> None:
    clock = asyncio.get_running_loop().time
    gaps, last, done = [0.0], clock(), False

    def look() -> bool:
        nonlocal last
        last, before = clock(), last
        gaps.append(last - before)
        return done

    watcher = asyncio.create_task(until(look, deadline_s=30))
    async with await EmbeddedServer.start(project / "pg"):
        done = True
        await watcher
    # looked at every 10 ms; initdb alone takes 400
    assert max(gaps) < 0.2


async def test_an_empty_directory_that_is_already_there_is_used(project: Path) -> None:
    (project / "pg").mkdir()
    async with await EmbeddedServer.start(project / "pg") as server:
        assert await ask(server, "select 1") == 1


async def test_a_log_that_grew_large_is_put_aside(data: Path) -> None:
    log = data.with_name("pg.log")
    log.write_bytes(b"x" * (8 * 1024 * 1024 + 1))
    async with await EmbeddedServer.start(data) as server:
        assert server.log_file == log
        assert 0 < log.stat().st_size < 1_000_000
    assert log.with_name("pg.log.1").stat().st_size > 8 * 1024 * 1024


async def test_destroy_deletes_everything_unless_another_uses_it(data: Path, project: Path) -> None:
    first, second = await EmbeddedServer.start(data), await EmbeddedServer.start(data)
    with pytest.raises(WrongState):
        await second.destroy()
    assert await ask(first, "select 1") == 1
    await first.destroy()
    assert list(project.iterdir()) == []


async def test_an_older_postgresql_works_too(project: Path) -> None:
    installed = sorted(Path("/usr/lib/postgresql").glob("1[4-6]/bin/initdb"))
    if not installed:
        pytest.skip("no PostgreSQL 14 to 16 is installed here")
    binaries = installed[-1].parent
    async with await EmbeddedServer.start(project / "pg", binaries=binaries) as server:
        assert server.version.startswith(binaries.parent.name)
        assert await ask(server, "show lc_collate") == "C"
    async with await EmbeddedServer.start(project / "pg") as server:
        assert server.version.startswith(binaries.parent.name)
