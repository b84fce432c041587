"""`dev`: write, save, look."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimpbase._schema.source import own_source
from tests.cli.command import Running, ask, is_alive
from tests.cli.terminal import Terminal
from tests.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="what is left of a process is read from /proc"),
]


@pytest.fixture
def developed(project: Path) -> Iterator[Running]:
    """The app on its private PostgreSQL, reloaded when saved."""
    with Running("dev", "--port", "0", cwd=project) as running:
        yield running


def last_address(running: Running) -> str | None:
    assert not running.ended(), running.output
    lines = [line for line in running.output.splitlines() if " on http://" in line]
    return lines[-1].partition(" on ")[2].split()[0] if lines else None


def word_of(running: Running) -> str | None:
    address = last_address(running)
    answer = ask(f"{address}/word") if address else None
    return json.loads(answer.text) if answer else None


async def pids_of(running: Running) -> dict[str, int]:
    """The processes behind a running app, once it answers."""

    def asked() -> dict[str, int]:
        address = last_address(running)
        answer = ask(f"{address}/pids") if address else None
        return json.loads(answer.text) if answer and answer.status == 200 else {}

    return await until(asked, deadline_s=30)


def edit(project: Path, old: str, new: str) -> None:
    app = project / "app.py"
    text = app.read_text()
    assert old in text
    app.write_text(text.replace(old, new))


async def test_it_says_what_is_registered_and_where(developed: Running) -> None:
    await until(lambda: last_address(developed), deadline_s=30)
    said = developed.output
    for words in (
        ["PostgreSQL 18.", "(embedded)  .chimpbase/pg", f"{len(own_source().migrations) + 1} migrations applied"],
        ["place", "app.py:", "(new: New) -> New"],
        ["slow", "app.py:", "queue slow of float"],
        ["report", "app.py:", "0 9 * * 1-5", "Monday", "Europe/Lisbon", "; next 2"],
        ["checkout@2", "app.py:"],
        ["GET /word", "app.py:", "-> word"],
        ["started in", "ms", "reload on save"],
    ):
        assert [line for line in said.splitlines() if all(word in line for word in words)], words
    assert "\x1b" not in said
    address = last_address(developed)
    health = ask(f"{address}/health")
    assert health is not None
    assert health.status == 200


async def test_an_edit_is_served_by_a_new_process_on_the_same_database(developed: Running, project: Path) -> None:
    before = await pids_of(developed)
    began = time.monotonic()
    edit(project, 'return "first"', 'return "second"')
    await until(lambda: word_of(developed) == "second")
    took_s = time.monotonic() - began
    after = await pids_of(developed)
    assert after["database"] == before["database"]
    assert after["app"] != before["app"]
    assert "app.py changed; restarting" in developed.output
    # a second on an idle machine; here others may be at work
    assert took_s < 5


async def test_a_job_that_a_restart_interrupts_runs_again(developed: Running, project: Path) -> None:
    address = await until(lambda: last_address(developed), deadline_s=30)
    ask(f"{address}/sleep", b'{"seconds": 3}')
    await until(lambda: developed.output.count("slow: sleeping") == 1)
    edit(project, 'return "first"', 'return "second"')
    await until(lambda: developed.output.count("slow: sleeping") == 2, deadline_s=30)
    await until(lambda: "slow#" in developed.output and " done in " in developed.output, deadline_s=30)


async def test_a_syntax_error_is_shown_and_survived(developed: Running, project: Path) -> None:
    await until(lambda: word_of(developed), deadline_s=30)
    edit(project, "return first + second", "return first +")
    await until(lambda: "SyntaxError" in developed.output)
    await until(lambda: "save a file to start it again" in developed.output)
    assert "importlib" not in developed.output
    assert not developed.ended()
    edit(project, "return first +\n", "return first + second\n")
    await until(lambda: "reloaded on" in developed.output)
    assert await until(lambda: word_of(developed)) == "first"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_and_leaves_nothing(developed: Running, number: signal.Signals) -> None:
    pids = await pids_of(developed)
    developed.send(number)
    await until(developed.ended)
    assert developed.process.returncode == 0
    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert "Traceback" not in developed.output


async def test_a_second_signal_ends_it_at_once(developed: Running) -> None:
    pids = await pids_of(developed)
    developed.send(signal.SIGSTOP)
    developed.send(signal.SIGINT)
    developed.send(signal.SIGTERM)
    developed.send(signal.SIGCONT)
    await until(developed.ended, deadline_s=5)
    assert developed.process.returncode in {130, 143}
    await until(lambda: not any(is_alive(pid) for pid in pids.values()))


async def test_ctrl_c_reaches_every_process_of_the_terminal_and_still_stops_cleanly(project: Path) -> None:
    with Terminal("dev", "--port", "0", cwd=project, env={}) as terminal:
        await until(lambda: "started on" in terminal.text, deadline_s=30)
        terminal.press(b"\x03")
        await until(terminal.ended)
        assert terminal.process.returncode == 0
    assert "Traceback" not in terminal.text
    assert "KeyboardInterrupt" not in terminal.text


async def test_kill_leaves_neither_app_nor_server_behind(developed: Running) -> None:
    pids = await pids_of(developed)
    developed.send(signal.SIGKILL)
    await until(lambda: not any(is_alive(pid) for pid in pids.values()))


async def test_without_reload_it_is_one_process(project: Path, dsn: str) -> None:
    with Running("dev", "--no-reload", "--port", "0", cwd=project, env={"DATABASE_URL": dsn}) as running:
        pids = await pids_of(running)
        assert pids["app"] == running.process.pid
        assert "reload on save" not in running.output
        assert "(embedded)" not in running.output
        running.send(signal.SIGTERM)
        await until(running.ended)
        assert running.process.returncode == 0


async def test_an_app_that_is_not_there_ends_it(project: Path) -> None:
    with Running("dev", "nope.py", cwd=project) as running:
        await until(running.ended, deadline_s=30)
        assert running.process.returncode == 3
        assert "There is no file nope.py." in running.output
