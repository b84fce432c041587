"""The pytest plugin, in a project of its own: its fixture, what it costs who does not use it, and what it leaves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from chimpbase._pg.embedded import EmbeddedServer
from tests.house.checkout import ROOT

PROJECT = """
import pytest
from chimpbase import App, Ctx, Queue

app, todo = App("club"), Queue("todo", str)

@app.worker(todo)
async def do(ctx: Ctx, what: str) -> None:
    await ctx.kv.set(what, "done")

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
@pytest.mark.parametrize("n", [1, 2])
async def test_a_fresh_database(n: int, chimpbase_database: str) -> None:
    async with app.running(database_url=chimpbase_database, workers=False):
        async with app.transaction() as ctx:
            assert await ctx.db.fetch_value("select count(*) from chimpbase.job") == 0
            await ctx.queue.enqueue(todo, "it")

@pytest.mark.anyio
async def test_a_rehearsal() -> None:
    from chimpbase.testing import rehearse
    async with rehearse(app) as t:
        async with t.transaction() as ctx:
            await ctx.queue.enqueue(todo, "it")
        assert (await t.drain()).completed == 1
"""

STRANGER = """
import sys

def test_nothing_was_loaded():
    assert "chimpbase.testing.plugin" in sys.modules
    loaded = [name for name in sys.modules if name.startswith(("chimpbase._app.rehears", "chimpbase.testing.rehears"))]
    assert loaded == []
"""


# an installed package registers its plugin; a bare source tree on the path must be told
INSTALLED = any(one.value == "chimpbase.testing.plugin" for one in entry_points(group="pytest11"))
BY_HAND = [] if INSTALLED else ["-p", "chimpbase.testing.plugin"]


def run_pytest(directory: Path, *, text: str, **environ: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    scratch = directory / "scratch"
    scratch.mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CHIMPBASE_"))}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *BY_HAND,
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
        ],
        cwd=directory,
        env=plain | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(scratch)} | environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_project_uses_it_and_nothing_is_left_behind(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, text=PROJECT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout
    left = [path.name for path in (tmp_path / "scratch").iterdir() if path.name.startswith("chimpbase-")]
    assert left == []


async def databases_of(url: str) -> set[str]:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        return {row[0] for row in await connection.fetch("select datname from pg_database where not datistemplate")}
    finally:
        await connection.close()


@pytest.mark.anyio
async def test_a_server_of_the_users_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    # not the suite's, on which other rehearsals make databases meanwhile
    server = await EmbeddedServer.start(tmp_path / "postgres" / "data", settings={"fsync": "off"})
    try:
        run = await asyncio.to_thread(run_pytest, tmp_path, text=PROJECT, CHIMPBASE_TEST_DATABASE_URL=server.dsn)
        assert run.returncode == 0, run.stdout + run.stderr
        assert await databases_of(server.dsn) == {"chimpbase", "postgres"}
    finally:
        await server.stop()
    assert list((tmp_path / "scratch").glob("chimpbase-*")) == []


def test_a_project_that_does_not_use_it_pays_nothing(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, text=STRANGER)
    assert run.returncode == 0, run.stdout + run.stderr


def test_pytest_finds_it_by_itself() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"chimpbase": "chimpbase.testing.plugin"}
