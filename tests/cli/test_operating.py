"""`chimpbase queue`, `job` and `why`, as an operator types them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.cli.command import Running, chimpbase
from tests.cli.terminal import Terminal
from tests.waiting import until

pytestmark = pytest.mark.anyio

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(project: Path, dsn: str) -> Cli:
    """The command line in the project, whose app has run once, on a database of its own."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return chimpbase(*words, cwd=project, env={"DATABASE_URL": dsn})

    assert run("call", "sleep_long", "seconds=0.0").returncode == 0
    (project / "app.py").unlink()  # no command below needs it
    return run


@pytest.fixture
async def database(cli: Cli, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def bury(database: asyncpg.Connection, count: int) -> None:
    await database.execute(
        "insert into chimpbase.job_dead (id, enqueued_at, queue, attempt, reason, payload, errors) "
        "select n, now(), queue.id, 3, 'exhausted', n::text, "
        """'[{"attempt": 3, "error": "ValueError", "message": "no bed\\n  in this room"}]' """
        "from generate_series(1001, 1000 + $1::int) n, chimpbase.queue where name = 'slow'",
        count,
    )


async def test_queues_are_listed_counted_paused_and_limited(cli: Cli, database: asyncpg.Connection) -> None:
    def slow() -> dict[str, Any]:
        found = json.loads(cli("queue", "ls", "-o", "json").stdout)
        assert {"slow", "cron:report", "workflow:checkout@2"} <= {one["name"] for one in found}
        return next(one for one in found if one["name"] == "slow")

    assert (slow()["ready"], slow()["processes"], slow()["paused_at"]) == (1, 0, None)
    assert cli("queue", "pause", "slow", "--reason", "a nap").stdout == "paused slow\n"
    assert slow()["pause_reason"] == "a nap"
    assert "@" in slow()["paused_by"]
    assert ": a nap" in cli("queue", "ls").stdout
    assert "slow (paused)" in cli("queue", "stats").stdout
    assert cli("queue", "resume", "slow").returncode == 0
    assert cli("queue", "limit", "slow", "--concurrency", "5", "--rate", "100/1m").stdout == "limited slow\n"
    assert slow()["limits"]["concurrency"] == 5
    assert "rate=100/60s concurrency=5" in cli("queue", "ls").stdout
    assert cli("queue", "limit", "slow", "--ordered", "pass", "--fair").returncode == 0
    assert slow()["limits"] == {"ordered": "pass", "fair": True}
    assert cli("queue", "limit", "slow", "--lift").returncode == 0
    assert slow()["limits"] == {}
    assert cli("queue", "limit", "slow", "--reset").returncode == 0
    for wrong in (["--concurrency", "0"], ["--rate", "100"], ["--rate", "x/1m"], [], ["--lift", "--reset"]):
        assert cli("queue", "limit", "slow", *wrong).returncode == 2, wrong
    for verb in ("pause", "resume"):
        gone = cli("queue", verb, "slwo")
        assert gone.returncode in (2, 3)
        assert "did you mean 'slow'" in gone.stderr


async def test_a_job_is_listed_shown_explained_and_cancelled(cli: Cli, database: asyncpg.Connection) -> None:
    job = str(await database.fetchval("select id from chimpbase.job"))
    (listed,) = json.loads(cli("job", "ls", "--queue", "slow", "--state", "ready", "-o", "json").stdout)
    assert (str(listed["id"]), listed["state"], listed["payload"]) == (job, "ready", "0.0")
    assert "0.0" in cli("job", "ls").stdout
    why = cli("why", job)
    assert why.stdout == f"Job {job} of queue 'slow' is ready, but no live process works its queue.\n"
    assert cli("job", "why", job).stdout == why.stdout
    assert json.loads(cli("why", job, "-o", "json").stdout)["state"] == "ready"
    carried = json.loads(cli("job", "show", job, "-o", "json").stdout)["status"]
    assert (carried["state"], carried["attempts"], carried["errors"]) == ("waiting", 0, [])
    assert cli("job", "cancel", job, "--reason", "no more").stdout == f"{job} cancelled\n"
    assert "no more" in cli("job", "show", job).stdout
    assert cli("job", "ls", "-o", "json").stdout.strip() == "[]"
    (done,) = json.loads(cli("job", "ls", "--state", "done", "-o", "json").stdout)
    assert done["state"] == "cancelled"
    for verb in ("why", "show"):
        unknown = cli("job", verb, "999999")
        assert unknown.returncode == 3
        assert "There is no job 999999" in unknown.stdout
    assert cli("job", "cancel", "999999").returncode == 3
    assert cli("job", "cancel").returncode == 2
    assert cli("job", "why", "nonsense").returncode == 2


async def test_dead_letters_are_shown_retried_redriven_and_purged(cli: Cli, database: asyncpg.Connection) -> None:
    await bury(database, 10)
    shown = cli("job", "show", "1001")
    assert "no bed" in shown.stdout
    told = json.loads(cli("job", "show", "1001", "-o", "json").stdout)
    assert (told["dead"]["payload"], told["status"]["payload"], told["status"]["state"]) == (1001, 1001, "dead")
    assert "no bed" in told["status"]["errors"][-1]["message"]
    assert cli("job", "retry", "1001", "1002").stdout == "1001 redriven\n1002 redriven\n"
    assert cli("job", "redrive", "1003").stdout == "redriven 1\n"
    refused = cli("job", "redrive")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Give a filter, such as --queue, or --all" in refused.stderr
    assert "Give --yes" in cli("job", "redrive", "--queue", "slow").stderr
    assert cli("job", "redrive", "--error", "KeyError", "--yes").stdout == "redriven 0\n"
    assert cli("job", "redrive", "--queue", "slow", "--payload", "1004", "--yes").stdout == "redriven 1\n"
    assert cli("job", "redrive", "--all", "--limit", "2", "--rate", "1", "--yes").stdout == "redriven 2\n"
    assert cli("queue", "purge", "slow").returncode == 2
    assert cli("queue", "purge", "slow", "--until", "1h", "--yes").stdout == "purged 0\n"
    assert cli("queue", "purge", "slow", "--since", "1h", "--limit", "1", "--yes").stdout == "purged 1\n"
    assert cli("queue", "purge", "slow", "--all", "--yes").stdout == "purged 3\n"
    assert await database.fetchval("select count(*) from chimpbase.job_dead") == 0
    for wrong in (["--since", "soon"], ["--payload", "{"], ["--rate", "0"], ["--reason", "bored"]):
        assert cli("job", "redrive", *wrong, "--yes").returncode == 2, wrong


async def test_on_a_terminal_it_asks_and_shows_how_far_it_is(
    cli: Cli, project: Path, dsn: str, database: asyncpg.Connection
) -> None:
    await bury(database, 2500)
    with Terminal("queue", "purge", "slow", "--all", cwd=project, env={"DATABASE_URL": dsn}) as terminal:
        await until(lambda: "[y/N]" in terminal.text, deadline_s=20)
        terminal.press(b"n\n")
        await until(lambda: "Nothing was changed" in terminal.text)
    assert await database.fetchval("select count(*) from chimpbase.job_dead") == 2500
    with Terminal("job", "redrive", "--queue", "slow", cwd=project, env={"DATABASE_URL": dsn}) as terminal:
        await until(lambda: "[y/N]" in terminal.text, deadline_s=20)
        terminal.press(b"y\n")
        await until(lambda: "redriven 2500" in terminal.text, deadline_s=20)
        assert "redriving" in terminal.text


async def test_a_watch_shows_it_again_and_again(cli: Cli, project: Path, dsn: str) -> None:
    with Running("queue", "stats", "--watch", cwd=project, env={"DATABASE_URL": dsn}) as running:
        await until(lambda: running.output.count("READY") >= 2, deadline_s=20)


async def test_jobs_are_held_by_their_payload_until_the_strike_is_lifted(
    cli: Cli, database: asyncpg.Connection
) -> None:
    job = str(await database.fetchval("select id from chimpbase.job"))
    assert (
        cli("queue", "strike", "slow", "--payload", "0.0", "--reason", "it\nfloods us").stdout == "strike 1 of slow\n"
    )
    (listed,) = json.loads(cli("queue", "strikes", "-o", "json").stdout)
    assert (listed["id"], listed["queue"], listed["payload"], listed["reason"]) == (1, "slow", 0.0, "it\nfloods us")
    assert "@" in listed["created_by"]
    assert "slow" in cli("queue", "strikes").stdout.splitlines()[1]
    assert "is held by strike 1" in cli("why", job).stdout
    assert cli("queue", "lift", "1").stdout == "lifted strike 1\n"
    assert "is ready" in cli("why", job).stdout
    assert cli("queue", "strikes", "-o", "json").stdout.strip() == "[]"
    again = json.loads(cli("queue", "strike", "slow", "--payload", '{"tenant": 7}', "-o", "json").stdout)
    assert again == {"strike": 2, "queue": "slow", "payload": {"tenant": 7}}
    assert json.loads(cli("queue", "lift", "2", "-o", "json").stdout) == {"strike": 2, "lifted": True}
    assert cli("queue", "lift", "2").returncode == 3
    assert cli("queue", "lift", "0").returncode == 2
    assert cli("queue", "strike", "slow").returncode == 2
    wrong = cli("queue", "strike", "slow", "--payload", "{tenant: 7}")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "is not JSON" in wrong.stderr
    assert "did you mean 'slow'" in cli("queue", "strike", "slwo", "--payload", "{}").stderr


async def test_what_acts_answers_with_json_when_asked_to(cli: Cli, database: asyncpg.Connection) -> None:
    def answer(*words: str, code: int = 0) -> Any:
        run = cli(*words, "-o", "json")
        assert run.returncode == code, run.stderr
        return json.loads(run.stdout)

    job = await database.fetchval("select id from chimpbase.job")
    await bury(database, 3)
    assert answer("queue", "pause", "slow") == {"queue": "slow", "paused": True}
    assert answer("queue", "resume", "slow") == {"queue": "slow", "paused": False}
    assert answer("queue", "limit", "slow", "--concurrency", "5") == {"queue": "slow", "limits": {"concurrency": 5}}
    assert answer("queue", "limit", "slow", "--lift") == {"queue": "slow", "limits": {}}
    assert answer("job", "retry", "1001") == [{"job": 1001, "outcome": "redriven", "error": None}]
    assert answer("job", "redrive", "1002") == {"redriven": 1}
    assert answer("queue", "purge", "slow", "--all", "--yes") == {"queue": "slow", "purged": 1}
    done, unknown = answer("job", "cancel", str(job), "999999", code=3)
    assert done == {"job": job, "outcome": "cancelled", "error": None}
    assert (unknown["job"], unknown["outcome"]) == (999999, None)
    assert "999999" in unknown["error"]
