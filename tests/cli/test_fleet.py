"""`start --processes`: several processes of one app, kept running."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Running, ask, chimpbase, is_alive
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def fleet(project: Path, dsn: str) -> Iterator[Running]:
    words = ("start", "--processes", "3", "--port", "0", "--log-format", "json")
    with Running(*words, cwd=project, env={"DATABASE_URL": dsn}) as running:
        yield running


def address_of(running: Running) -> str | None:
    """Where they serve, once all three do."""
    assert not running.ended(), running.output
    found: list[str] = re.findall(r'"address": "(http://[^"]+)"', running.output)
    assert len(set(found)) <= 1
    return found[0] if len(found) == 3 else None


def three_pids(address: str) -> set[int] | None:
    """The processes behind an address, when they are three."""
    found = set[int]()
    for _ in range(60):
        answer = ask(f"{address}/pids")
        if answer is not None and answer.status == 200:
            found.add(json.loads(answer.text)["app"])
    return found if len(found) == 3 else None


async def test_all_processes_serve_one_port_and_end_with_the_first(fleet: Running) -> None:
    address = await until(lambda: address_of(fleet), deadline_s=60) or ""
    found = await until(lambda: three_pids(address), deadline_s=30) or set()
    fleet.send(signal.SIGTERM)
    await until(fleet.ended, deadline_s=30)
    assert fleet.process.returncode == 0
    assert not any(is_alive(pid) for pid in found)


async def test_a_process_that_is_killed_is_started_again(fleet: Running) -> None:
    address = await until(lambda: address_of(fleet), deadline_s=60) or ""
    found = await until(lambda: three_pids(address), deadline_s=30) or set()
    os.kill(min(found), signal.SIGKILL)
    await until(lambda: "was ended by SIGKILL" in fleet.output)
    again = await until(lambda: three_pids(address), deadline_s=60) or set()
    assert len(again & found) == 2


async def test_children_leave_when_the_first_process_is_killed(fleet: Running) -> None:
    address = await until(lambda: address_of(fleet), deadline_s=60) or ""
    found = await until(lambda: three_pids(address), deadline_s=30) or set()
    fleet.send(signal.SIGKILL)
    await until(lambda: not any(is_alive(pid) for pid in found), deadline_s=30)


def test_an_app_that_cannot_start_is_not_started_again_and_again(project: Path, dsn: str) -> None:
    (project / "app.py").write_text("raise RuntimeError('no app today')\n")
    done = chimpbase("start", "--processes", "2", "--port", "0", cwd=project, env={"DATABASE_URL": dsn})
    assert done.returncode == 1
    assert "no app today" in done.stderr


@pytest.mark.parametrize("count", ["0", "-1", "257", "many", "1.5"])
def test_a_number_of_processes_that_cannot_be_is_refused(project: Path, count: str) -> None:
    done = chimpbase("start", "--processes", count, cwd=project)
    assert done.returncode == 2
    assert "processes" in done.stderr.lower()


def test_a_port_that_is_no_whole_number_is_refused(project: Path) -> None:
    done = chimpbase("start", "--port", "8000.4", cwd=project)
    assert done.returncode == 2
    assert "8000.4" in done.stderr
