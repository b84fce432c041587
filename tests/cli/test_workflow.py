"""`chimpbase workflow`, as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import chimpbase
from tests.house.checkout import ROOT

CODE = """
from chimpbase import App, Wf

async def double(n: int) -> int:
    return n * 2

app = App("flows")

@app.workflow("flow")
async def flow(wf: Wf, n: int) -> int:
    total = await wf.step("{name}", double, n)
    return total + (await wf.wait("go") or 0)
"""
RUN = """
import asyncio
from app import app
async def main() -> None:
    async with app.running():
        while any(run.status in ("running", "sleeping") for run in await app.ctx.workflow.find()):
            await asyncio.sleep(0.01)
asyncio.run(main())
"""
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path, dsn: str) -> Cli:
    """The command line in a project with one workflow, on a database of its own."""
    (tmp_path / "app.py").write_text(CODE.replace("{name}", "double"))
    return lambda *words: chimpbase(*words, cwd=tmp_path, env={"DATABASE_URL": dsn})


def test_a_run_is_started_shown_signalled_checked_and_forked(cli: Cli, tmp_path: Path, dsn: str) -> None:
    def work() -> None:
        env = {**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": str(ROOT / "src")}
        subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, env=env, check=True, timeout=60)

    started = cli("workflow", "start", "flow", "--input", "4", "--id", "f")
    assert (started.returncode, started.stdout) == (0, "f\n"), started.stderr
    work()
    (one,) = json.loads(cli("workflow", "ls", "-o", "json", "--status", "waiting").stdout)
    assert (one["id"], one["workflow"], one["waits"]) == ("f", "flow", ["go"])
    page = cli("workflow", "show", "f").stdout
    assert "why        waits for go" in page or "no live process can run flow v1" in page
    assert ["double#1" in line for line in page.splitlines() if line.startswith("+")] == [True]
    shown = json.loads(cli("workflow", "show", "f", "-o", "json").stdout)
    assert [(entry["key"], entry["input"], entry["result"]) for entry in shown["history"]] == [("double#1", [4], 8)]
    checked = cli("workflow", "check")
    assert checked.stdout == "1 runs checked, 0 cannot go on with this code\n", checked.stderr
    (tmp_path / "app.py").write_text(CODE.replace("{name}", "twice"))
    checked = cli("workflow", "check")
    assert checked.returncode == 1
    assert "@step(was='double')" in checked.stdout
    (tmp_path / "app.py").write_text(CODE.replace("{name}", "double"))
    assert cli("workflow", "pause", "f").stdout == "f begins nothing new\n"
    assert json.loads(cli("workflow", "resume", "f", "-o", "json").stdout) == {"run": "f", "did": "resume"}
    assert cli("workflow", "signal", "f", "go", "--payload", "5").stdout == "sent go to f\n"
    work()
    assert json.loads(cli("workflow", "show", "f", "-o", "json").stdout)["output"] == 13
    assert cli("workflow", "fork", "f", "--step", "wait:go#1", "--id", "g").stdout == "g\n"
    assert cli("workflow", "cancel", "g", "--force").returncode == 0
    assert cli("workflow", "rewind", "f", "--step", "nothing#1").returncode == 3
    assert cli("workflow", "signal", "f", "go", "--payload", "{").returncode == 2


def test_what_there_is_not_is_said_in_a_sentence(cli: Cli) -> None:
    assert cli("workflow", "ls", "--status", "nix").returncode == 2
    for verb in ("show", "export", "pause"):
        refused = cli("workflow", verb, "nobody")
        assert (refused.returncode, refused.stderr) == (3, "chimpbase: No run with id 'nobody'.\n")


def test_a_run_is_started_later_with_attributes_and_shown_before_it_did_anything(cli: Cli) -> None:
    started = cli("workflow", "start", "flow", "--id", "g", "--input", "1", "--delay", "1h", "--attribute", "vip:=true")
    assert started.stdout == "g\n", started.stderr
    page = cli("workflow", "show", "g").stdout
    assert 'attributes {"vip": true}' in page
    assert page.endswith("Nothing was done yet.\n")
    assert json.loads(cli("workflow", "export", "g").stdout)["run"]["input"] == 1
    assert cli("workflow", "start", "flow", "--id", "g", "--input", "1").returncode == 1
    again = ("workflow", "start", "flow", "--id", "g", "--input", "1", "--on-conflict", "use_existing", "-o", "json")
    assert json.loads(cli(*again).stdout) == {"run": "g", "did": "start"}
    assert [
        one["id"] for one in json.loads(cli("workflow", "ls", "-o", "json", "--attribute", "vip:=true").stdout)
    ] == ["g"]
