"""The demo: a small one balances, and one that cannot run says why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.house.checkout import ROOT

DEMO = ROOT / "examples" / "shop" / "demo.py"
LIMIT_S = 55
FOREIGN = re.compile(r"DATABASE_URL|CHIMPBASE_.*|PG.*")


def run_demo(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not FOREIGN.fullmatch(name)}
    return subprocess.run(
        [sys.executable, DEMO, *words],
        env=own | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path), "COLUMNS": "100"} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_a_demo_on_embedded_postgresql_balances_and_cleans_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    scratch = tmp_path_factory.mktemp("d")
    done = run_demo(scratch, "--orders", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert re.search(r"orders shipped\s+│\s+60 │\s+60 │ ok", done.stdout), done.stdout
    assert "│ off" not in done.stdout
    assert list(scratch.glob("chimpbase-demo-*")) == []


@pytest.mark.anyio
async def test_a_demo_on_a_server_of_yours_leaves_no_database(dsn: str, tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--orders", "40", DATABASE_URL=dsn)
    assert done.returncode == 0, done.stdout + done.stderr
    connection = await asyncpg.connect(dsn)
    left = await connection.fetch("select datname from pg_database where datname like 'chimpbase_demo_%'")
    tables = await connection.fetchval("select count(*) from pg_tables where schemaname = 'chimpbase'")
    await connection.close()
    assert (left, tables) == ([], 0)


def test_a_demo_without_its_server_says_so_in_a_sentence(tmp_path: Path) -> None:
    done = run_demo(tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert done.returncode == 1
    assert "DATABASE_URL leads to no database the demo can use" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
