"""`chimpbase stream`, as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import chimpbase

CODE = """
from chimpbase import App, Ctx, Entry

app = App("shop")


@app.consumer("audit", name="keeper")
async def keep(ctx: Ctx, entries: list[Entry[dict]]) -> None: ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(CODE, encoding="utf-8")
    return tmp_path


def run(project: Path, dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chimpbase", "stream", *words],
        cwd=project,
        env={**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": str(Path(chimpbase.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def test_streams_are_appended_to_listed_and_read(project: Path, dsn: str) -> None:
    assert run(project, dsn, "append", "audit", '{"n": 1}', "--key", "a").stdout == "entry 1\n"
    assert run(project, dsn, "append", "audit", '{"n": 2}').returncode == 0
    (stream,) = json.loads(run(project, dsn, "ls", "-o", "json").stdout)
    assert (stream["name"], stream["last_id"]) == ("audit", 2)
    first, second = json.loads(run(project, dsn, "read", "audit", "-o", "json").stdout)
    assert (first["payload"], first["key"], second["payload"]) == ({"n": 1}, "a", {"n": 2})
    rest = json.loads(run(project, dsn, "read", "audit", "--after", first["position"], "-o", "json").stdout)
    assert [one["id"] for one in rest] == [second["id"]]
    assert "audit" in run(project, dsn, "ls").stdout
    assert json.loads(run(project, dsn, "consumers", "-o", "json").stdout) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("append", "audit", "{no"), "no JSON"),
        (("rewind", "nobody"), "No consumer"),
        (("dead", "nobody"), "No consumer"),
        (("redrive", "nobody"), "--all"),
        (("redrive", "nobody", "7"), "No consumer"),
        (("read", "audit", "--since", "yesterday"), "no instant"),
        (("read", "audit", "-n", "0"), "limit"),
    ],
)
def test_what_cannot_be_done_is_said(project: Path, dsn: str, words: tuple[str, ...], said: str) -> None:
    done = run(project, dsn, *words)
    assert done.returncode in (1, 2, 3)
    assert said in done.stderr
