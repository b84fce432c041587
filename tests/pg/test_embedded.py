"""The embedded server in one process: start, stop, recovery, and what is said when it cannot start."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - small files and short commands; nothing else runs on the loop meanwhile

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chimpbase._core.errors import ConfigError, NotStarted, WrongState
from chimpbase._pg.binaries import find_binaries
from chimpbase._pg.embedded import EmbeddedServer
from chimpbase._pg.embedded_account import choose_account
from chimpbase._pg.embedded_postmaster import read_postmaster
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory everybody can enter; the temporary directories of pytest are closed to other accounts."""
    directory = Path(tempfile.mkdtemp(prefix="chimpbase-test-")).resolve()
    directory.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
async def template() -> Any:
    """A cluster that was stopped cleanly, to be copied."""
    directory = Path(tempfile.mkdtemp(prefix="chimpbase-test-")).resolve()
    directory.chmod(0o755)
    async with await EmbeddedServer.start(directory / "pg"):
        pass
    yield directory / "pg"
    shutil.rmtree(directory)


@pytest.fixture
def data(template: Path, project: Path) -> Path:
    subprocess.run(["cp", "-a", template, project / "pg"], check=True)
    return project / "pg"


async def _ask(server: EmbeddedServer, statement: str) -> Any:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def _sockets(server: EmbeddedServer) -> Path:
    return Path(server.dsn.partition("host=")[2].partition("&")[0])


def _pid(directory: Path) -> int:
    postmaster = read_postmaster(directory.resolve())
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
        await _ask(server, "create table kept as select 42 as answer")
        assert (await _ask(server, "show server_version")).startswith(server.version)
    async with await EmbeddedServer.start(project / ".chimpbase" / "pg") as server:
        assert await _ask(server, "select answer from kept") == 42
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
        directory = _sockets(server)
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
        assert await _ask(server, "show fsync") == "off"
        assert await _ask(server, "show max_connections") == "17"


@pytest.mark.parametrize("name", ["listen_addresses", "PORT", "no name", "-D"])
async def test_a_setting_the_server_decides_itself_is_refused(data: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"setting {name!r} cannot be given"):
        await EmbeddedServer.start(data, settings={name: "1"})


async def test_a_bad_setting_is_answered_with_the_end_of_the_log(data: Path) -> None:
    with pytest.raises(ConfigError, match=r'stopped while it was starting(.|\n)*parameter "fsync" requires a Boolean'):
        await EmbeddedServer.start(data, settings={"fsync": "perhaps"})
    async with await EmbeddedServer.start(data) as server:
        assert server.owned


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
        assert await _ask(first, "select 1") == 1


async def test_another_spelling_of_the_directory_is_the_same_server(data: Path, project: Path) -> None:
    (project / "link").symlink_to(data)
    async with await EmbeddedServer.start(data) as first, await EmbeddedServer.start(project / "link") as second:
        assert (second.owned, second.dsn) == (False, first.dsn)


async def test_ensure_changes_nothing_where_the_server_answers(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        pid = _pid(data)
        await asyncio.gather(*(server.ensure() for _ in range(5)))
        assert _pid(data) == pid


async def test_ensure_starts_a_killed_server_again_without_losing_a_commit(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        await _ask(server, "create table kept as select 42 as answer")
        os.kill(_pid(data), signal.SIGKILL)
        await asyncio.gather(*(server.ensure() for _ in range(5)))
        assert server.owned
        assert await _ask(server, "select answer from kept") == 42


async def test_ensure_replaces_a_server_whose_socket_was_deleted(data: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        shutil.rmtree(_sockets(server))
        await server.ensure()
        assert await _ask(server, "select 1") == 1


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


async def test_a_server_started_from_a_thread_that_ended_keeps_running(data: Path) -> None:
    started: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: started.append(asyncio.run(EmbeddedServer.start(data))))
    thread.start()
    await asyncio.to_thread(thread.join)
    async with started[0] as server:
        for _ in range(3):
            assert await _ask(server, "select 1") == 1


async def test_a_start_that_is_cancelled_leaves_nothing(project: Path) -> None:
    task = asyncio.create_task(EmbeddedServer.start(project / "pg"))
    await until(lambda: list(project.glob(".pg.unfinished-*/global/pg_control")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {path.name for path in project.iterdir()} == {"pg.lock", "pg.log"}
    async with await EmbeddedServer.start(project / "pg") as server:
        assert server.owned


async def test_the_event_loop_is_not_blocked_by_a_first_start(project: Path) -> None:
    loop = asyncio.get_running_loop()
    longest, done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not done:
            before = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - before)

    watcher = asyncio.create_task(watch())
    async with await EmbeddedServer.start(project / "pg"):
        done = True
        await watcher
    assert longest < 0.1


async def test_a_stale_pid_file_of_a_dead_process_is_no_obstacle(data: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    _write_pid_file(data, dead.pid)
    async with await EmbeddedServer.start(data) as server:
        assert server.owned
        assert await _ask(server, "select 1") == 1


async def test_a_pid_file_whose_number_was_given_to_another_process_is_no_obstacle(data: Path) -> None:
    owner = choose_account(data)
    credentials: dict[str, Any] = {"user": owner.uid, "group": owner.gid} if owner.dropped else {}
    with subprocess.Popen(["sleep", "600"], cwd="/", **credentials) as stranger:
        try:
            _write_pid_file(data, stranger.pid)
            async with await EmbeddedServer.start(data) as server:
                assert server.owned
                assert await _ask(server, "select 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_a_pid_file_that_was_cut_off_is_named_with_its_log(data: Path) -> None:
    (data / "postmaster.pid").write_text("")
    with pytest.raises(ConfigError, match='(?s)stopped while it was starting.*"postmaster.pid" is empty'):
        await EmbeddedServer.start(data)


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
                assert await _ask(server, "select 1") == 1
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


async def test_an_empty_directory_that_is_already_there_is_used(project: Path) -> None:
    (project / "pg").mkdir()
    async with await EmbeddedServer.start(project / "pg") as server:
        assert await _ask(server, "select 1") == 1


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
        assert await _ask(server, "select 1") == 1


async def test_a_temporary_directory_too_long_for_a_socket_is_passed_over(data: Path, project: Path) -> None:
    long = project / ("t" * 100)
    long.mkdir()
    async with await EmbeddedServer.start(data, environ={"TMPDIR": str(long)}) as server:
        assert "host=/tmp/chimpbase-" in server.dsn


async def test_a_socket_directory_somebody_else_made_is_not_used(data: Path, project: Path) -> None:
    async with await EmbeddedServer.start(data) as server:
        name = _sockets(server).name
        assert _sockets(server) == project / name
    (project / name).symlink_to(data.parent)
    async with await EmbeddedServer.start(data) as server:
        assert _sockets(server) == Path("/tmp") / name
    (project / name).unlink()
    assert not (project / ".s.PGSQL.5432").exists()


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
    assert await _ask(first, "select 1") == 1
    await first.destroy()
    assert list(project.iterdir()) == []


async def test_an_older_postgresql_works_too(project: Path) -> None:
    installed = sorted(Path("/usr/lib/postgresql").glob("1[4-6]/bin/initdb"))
    if not installed:
        pytest.skip("no PostgreSQL 14 to 16 is installed here")
    binaries = installed[-1].parent
    async with await EmbeddedServer.start(project / "pg", binaries=binaries) as server:
        assert server.version.startswith(binaries.parent.name)
        assert await _ask(server, "show lc_collate") == "C"
    async with await EmbeddedServer.start(project / "pg") as server:
        assert server.version.startswith(binaries.parent.name)


def _write_pid_file(data: Path, pid: int) -> None:
    owner = data.stat()
    path = data / "postmaster.pid"
    path.write_text(f"{pid}\n{data}\n1700000000\n5432\n/tmp\n\n  5432001    98304\nready   \n")
    path.chmod(0o600)
    os.chown(path, owner.st_uid, owner.st_gid)
