"""`chimpbase cron`, as an operator types it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.cli.command import chimpbase

pytestmark = pytest.mark.anyio

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(project: Path, dsn: str) -> Cli:
    """The command line in the project, on a database of its own."""
    return lambda *words: chimpbase(*words, cwd=project, env={"DATABASE_URL": dsn})


def listed(cli: Cli, *words: str) -> list[dict[str, Any]]:
    return json.loads(cli("cron", "ls", "-o", "json", *words).stdout)


async def test_schedules_are_listed_paused_resumed_run_and_removed(cli: Cli, dsn: str) -> None:
    assert cli("call", "add", "first=1").returncode == 0  # which declares the app's schedules
    (one,) = listed(cli)
    name = one["name"]
    assert one["declared"]
    assert one["in_words"]
    table = cli("cron", "ls")
    assert one["in_words"] in table.stdout
    assert cli("cron", "pause", name).stdout == f"paused {name}\n"
    assert listed(cli)[0]["paused_at"]
    assert " paused " in cli("cron", "ls").stdout
    assert cli("cron", "resume", name).returncode == 0
    assert listed(cli, "--prefix", name[:2])[0]["paused_at"] is None
    assert listed(cli, "--prefix", "zzz") == []
    assert cli("cron", "run", name).stdout.startswith("job ")
    assert cli("cron", "run", name, "--payload", '{"a": 1}').stdout.startswith("job ")
    assert cli("cron", "run", name, "--payload", "{").returncode == 2
    connection = await asyncpg.connect(dsn)
    jobs = await connection.fetch("select payload::json -> 'payload' from chimpbase.job order by id")
    assert [json.loads(job[0]) for job in jobs] == [None, {"a": 1}]
    await connection.close()
    shown = cli("cron", "next", name, "-n", "2", "-o", "json")
    assert len(json.loads(shown.stdout)["next"]) == 2
    assert cli("cron", "remove", name).returncode == 0
    for verb in ("pause", "resume", "run", "next", "remove"):
        gone = cli("cron", verb, name)
        assert (gone.returncode, gone.stdout) == (3, ""), verb
        assert "No schedule" in gone.stderr


def test_an_expression_is_explained_without_a_database(tmp_path: Path) -> None:
    env = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    shown = chimpbase("cron", "next", "0 9 * * 1-5", "--tz", "Europe/Lisbon", "-n", "3", cwd=tmp_path, env=env)
    assert shown.returncode == 0
    assert shown.stdout.startswith("At 09:00 on Monday through Friday (Europe/Lisbon)\n")
    assert shown.stdout.count("09:00:00 WE") == 3
    refused = chimpbase("cron", "next", "0 9 * * 1-5", "--tz", "Lisbon", cwd=tmp_path, env=env)
    assert refused.returncode == 2
    assert "Did you mean 'Europe/Lisbon'?" in refused.stderr
