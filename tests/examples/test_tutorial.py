"""The tutorial, as somebody would follow it: its files, `chimpbase dev`, the requests, and the kill."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.house.checkout import ROOT
from tests.waiting import until

FOREIGN = re.compile(r"DATABASE_URL|CHIMPBASE_.*|PG.*")


@pytest.fixture
def teahouse(tmp_path: Path) -> Path:
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    sql, python, test = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("sql", "python", "python"))
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_create_cups.sql").write_text(sql[0])
    (tmp_path / "app.py").write_text(python[0])
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_app.py").write_text(test[1])
    return tmp_path


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not FOREIGN.fullmatch(name)}
    return own | {"PYTHONPATH": str(ROOT / "src")}


@contextmanager
def dev(project: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`chimpbase dev`, killed with everything it started when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "chimpbase", "dev", "--port", str(port)],
        cwd=project,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.anyio
async def test_a_cup_survives_the_kill(teahouse: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        async def is_ready() -> bool:
            try:
                return (await client.get("/ready")).status_code == 200
            except httpx2.TransportError:
                return False

        async def is_served() -> bool:
            return (await client.get("/cups/1")).json()["served_at"] is not None

        with dev(teahouse, port):
            await until(is_ready, deadline_s=30)
            ordered = await client.post("/cups", json={"kind": "oolong"})
            assert (ordered.status_code, ordered.json()) == (201, {"id": 1, "kind": "oolong", "served_at": None})
            refused = await client.post("/cups", json={"kind": 7})
            assert refused.status_code == 422
            assert refused.text in (ROOT / "docs" / "tutorial.md").read_text("utf-8")
        with dev(teahouse, port):
            await until(is_ready, deadline_s=30)
            await until(is_served)
            assert (await client.post("/cups/1/payment")).status_code == 204


def test_its_test_passes(teahouse: Path) -> None:
    (teahouse / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "asyncio"],
        cwd=teahouse,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
