"""`start`: production's way to run and to stop."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Running, ask, is_alive
from tests.cli.terminal import Terminal
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def started(project: Path, dsn: str) -> Iterator[Running]:
    with Running("start", "--port", "0", "--log-level", "debug", cwd=project, env={"DATABASE_URL": dsn}) as running:
        yield running


def served(running: Running) -> str | None:
    assert not running.ended(), running.output
    match = re.search(r'"address": "(http://[^"]+)"', running.output)
    return match[1] if match else None


async def test_it_serves_and_its_log_is_json_and_sigterm_ends_it_cleanly(started: Running) -> None:
    address = await until(lambda: served(started), deadline_s=30)
    health, word = ask(f"{address}/health"), ask(f"{address}/word")
    assert health is not None
    assert health.status == 200
    assert word is not None
    assert word.text == '"first"'
    started.send(signal.SIGTERM)
    await until(started.ended)
    assert started.process.returncode == 0
    lines = [json.loads(line) for line in started.output.splitlines()]
    assert lines[-1]["message"] == "stopped"
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert any(line["logger"] == "chimpbase.http" and line["message"].startswith("GET /word 200") for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(started: Running, number: signal.Signals) -> None:
    address = await until(lambda: served(started), deadline_s=30)
    ask(f"{address}/sleep", b'{"seconds": 30}')
    await until(lambda: '"sleeping"' in started.output)
    started.send(number)
    await until(lambda: '"stopping"' in started.output)
    assert not started.ended()  # the job still runs, within the grace
    began = time.monotonic()
    started.send(number)
    await until(started.ended)
    assert started.process.returncode == 128 + number
    assert time.monotonic() - began < 2


async def test_a_thread_that_never_ends_does_not_hold_up_a_clean_stop(project: Path, dsn: str) -> None:
    with Running("start", "--port", "0", "--grace", "200ms", cwd=project, env={"DATABASE_URL": dsn}) as running:
        address = await until(lambda: served(running), deadline_s=30)
        ask(f"{address}/sleep", b'{"seconds": 40}')
        await until(lambda: '"sleeping"' in running.output)
        running.send(signal.SIGTERM)
        await until(running.ended, deadline_s=8)
        assert running.process.returncode == 0


async def test_without_http_nothing_listens_and_without_workers_no_job_runs(project: Path, dsn: str) -> None:
    env = {"DATABASE_URL": dsn}
    with Running("start", "--no-workers", "--port", "0", cwd=project, env=env) as serving:
        address = await until(lambda: served(serving), deadline_s=30)
        ask(f"{address}/sleep", b'{"seconds": 0}')
        with Running("start", "--no-http", cwd=project, env=env) as working:
            await until(lambda: "slow#" in working.output, deadline_s=30)
            assert '"address": null' in working.output
        assert "slow#" not in serving.output


async def test_a_port_that_is_taken_is_one_sentence(project: Path, dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Running("start", "--port", str(port), cwd=project, env={"DATABASE_URL": dsn}) as refused:
            await until(refused.ended, deadline_s=30)
    assert refused.process.returncode != 0
    assert f"{port}" in refused.output
    assert "--port" in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.skipif(sys.platform != "linux", reason="the server leaves with its parent's death signal")
async def test_kill_leaves_no_server_behind(project: Path) -> None:
    with Running("start", "--port", "0", cwd=project) as running:
        address = await until(lambda: served(running), deadline_s=30)
        answer = ask(f"{address}/pids")
        assert answer is not None
        pids = json.loads(answer.text)
        assert is_alive(pids["database"])
        running.send(signal.SIGKILL)
        await until(lambda: not is_alive(pids["database"]))


async def test_a_terminal_gets_text_a_banner_and_colour_unless_it_wants_none(project: Path, dsn: str) -> None:
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with Terminal("start", "--port", "0", cwd=project, env={"DATABASE_URL": dsn, **extra}) as terminal:
            await until(lambda: "started on" in terminal.text, deadline_s=30)
        text = terminal.text
        assert "workflows" in text
        assert "checkout@2" in text
        assert "shop started on http://127.0.0.1:" in text
        assert ("\x1b[" in text) == coloured
