"""The commands that ask and end: call, migrate, psql, config."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from chimpbase.cli.libpq import libpq_environment
from tests.cli.command import chimpbase, environment

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
UNREACHABLE = "postgresql://ann:s3cret@127.0.0.1:1/shop"


@pytest.fixture
def cli(project: Path, dsn: str) -> Cli:
    """The command line in the project, on a database of its own."""
    return lambda *words: chimpbase(*words, cwd=project, env={"DATABASE_URL": dsn})


def test_call_prints_the_result_as_json_and_nothing_else(cli: Cli) -> None:
    done = cli("call", "place", "sku=tea", "quantity=2", "gift=true")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"sku": "tea", "quantity": 2, "gift": True})
    assert json.loads(cli("call", "add", "first=1", "second:=2").stdout) == 3


def test_call_of_an_unknown_action_names_the_nearest(cli: Cli) -> None:
    refused = cli("call", "plce")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "No action named 'plce' is registered; did you mean 'place'?" in refused.stderr


def test_call_with_a_wrong_argument_shows_path_and_signature(cli: Cli) -> None:
    refused = cli("call", "add", "first=one")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "`$.first`" in refused.stderr
    assert refused.stderr.endswith("  add(first: int, second: int = 1) -> int\n")


def test_an_action_that_fails_shows_its_own_frames(cli: Cli) -> None:
    failed = cli("call", "fail")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "RuntimeError: this action fails" in failed.stderr
    assert failed.stderr.count('  File "') == 1


def test_migrate_applies_once_and_says_what(cli: Cli) -> None:
    pending = cli("migrate", "--check")
    assert pending.returncode == 1
    assert "pending 0001_create_notes.sql\n" in pending.stdout
    applied = cli("migrate")
    assert applied.returncode == 0
    assert applied.stdout == pending.stdout.replace("pending", "applied")
    assert cli("migrate").stdout == "nothing to apply: the schema is up to date\n"
    checked = cli("migrate", "--check")
    assert (checked.returncode, checked.stdout) == (0, "nothing is pending\n")


def test_the_sql_of_migrate_does_the_same_by_hand(cli: Cli, project: Path, dsn: str) -> None:
    script = chimpbase("migrate", "--sql", cwd=project, env={"DATABASE_URL": UNREACHABLE})
    assert (script.returncode, script.stderr) == (0, "")
    (project / "all.sql").write_text(script.stdout)
    by_hand = cli("psql", "--write", "--", "-q", "-v", "ON_ERROR_STOP=1", "-f", "all.sql")
    assert (by_hand.returncode, by_hand.stderr) == (0, "")
    assert cli("migrate", "--check").stdout == "nothing is pending\n"
    assert json.loads(cli("call", "add", "first=1").stdout) == 2


def test_an_edited_migration_is_refused_in_a_sentence(cli: Cli, project: Path) -> None:
    assert cli("migrate").returncode == 0
    (project / "migrations" / "0001_create_notes.sql").write_text("select 1;\n")
    refused = cli("migrate")
    assert refused.returncode == 1
    assert "0001_create_notes.sql" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_database_of_newer_code_is_refused_in_a_sentence(cli: Cli, project: Path) -> None:
    assert cli("migrate").returncode == 0
    (project / "migrations" / "0001_create_notes.sql").unlink()
    refused = cli("migrate", "--check")
    assert refused.returncode == 1
    assert "Deploy the code that brought it, or newer." in refused.stderr


def test_psql_reads_unless_told_to_write(cli: Cli) -> None:
    assert cli("psql", "--", "-At", "-c", "select 40 + 2").stdout == "42\n"
    refused = cli("psql", "--", "-c", "create table t ()")
    assert refused.returncode == 1
    assert "read-only transaction" in refused.stderr
    assert cli("psql", "--write", "--", "-c", "create table t ()").returncode == 0


def test_psql_never_has_the_password_in_its_arguments(project: Path) -> None:
    fake = project / "bin" / "psql"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\necho "$PGPASSWORD at $PGHOST with $PGOPTIONS"\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{environment()['PATH']}"
    shown = chimpbase(
        "psql",
        "--",
        "-c",
        "select 1",
        cwd=project,
        env={"DATABASE_URL": UNREACHABLE, "PATH": path, "PGOPTIONS": "-c a=b"},
    )
    assert shown.stdout.splitlines() == [
        "-c select 1",
        "s3cret at 127.0.0.1 with -c a=b -c default_transaction_read_only=on",
    ]


def test_psql_on_the_private_server_starts_and_stops_it(project: Path) -> None:
    sockets = chimpbase("psql", "--", "-At", "-c", "show unix_socket_directories", cwd=project)
    assert sockets.returncode == 0
    directory = Path(sockets.stdout.strip())
    assert directory.is_absolute()
    assert not directory.exists()


def test_config_shows_each_value_and_its_source(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.chimpbase]\npool-size = 7\napp = "app.py"\n')
    env = {"CHIMPBASE_LEASE": "30s", "DATABASE_URL": "postgresql://ann:s3cret@db/shop?sslpassword=s3cret"}
    shown = chimpbase("config", cwd=project, env=env)
    rows = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()}
    assert rows["lease"] == ["30s", "CHIMPBASE_LEASE"]
    assert rows["pool_size"] == ["7", "pyproject.toml"]
    assert rows["port"] == ["8000", "default"]
    assert rows["database_url"][-1] == "DATABASE_URL"
    assert "s3cret" not in shown.stdout
    told = json.loads(chimpbase("config", "-o", "json", cwd=project, env=env).stdout)
    assert {"name": "lease", "value": "30s", "source": "CHIMPBASE_LEASE"} in told


@pytest.mark.parametrize(
    ("url", "code", "sentence"),
    [
        (UNREACHABLE, 1, "cannot be reached"),
        ("mysql://ann:s3cret@127.0.0.1/shop", 2, "starts with mysql://, which is not PostgreSQL"),
    ],
)
@pytest.mark.parametrize(
    "words", [["start", "--no-http"], ["dev", "--no-reload"], ["migrate"], ["call", "word"]], ids=lambda words: words[0]
)
def test_a_wrong_database_url_is_one_sentence(
    words: list[str], url: str, code: int, sentence: str, project: Path
) -> None:
    refused = chimpbase(*words, cwd=project, env={"DATABASE_URL": url})
    assert refused.returncode == code
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "s3cret" not in refused.stderr + refused.stdout


def test_a_wrong_setting_is_one_sentence(project: Path) -> None:
    refused = chimpbase("config", cwd=project, env={"CHIMPBASE_LEASSE": "30s"})
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "CHIMPBASE_LEASE" in refused.stderr


def test_the_variables_of_the_test_database_name_it(dsn: str) -> None:
    assert libpq_environment(dsn)["PGDATABASE"] == urlsplit(dsn).path.removeprefix("/")
    assert parse_qs(urlsplit(dsn).query).get("password") is None


def test_a_directory_of_migrations_that_was_asked_for_must_be_there(project: Path) -> None:
    for variable in ("CHIMPBASE_MIGRATIONS", "CHIMPBASE_MIGRATONS"):
        refused = chimpbase("migrate", "--sql", cwd=project, env={variable: "nosuchdir"})
        assert refused.returncode != 0
        assert variable.lower().removeprefix("chimpbase_")[:6] in refused.stderr.lower()


def test_a_misspelt_variable_is_refused_with_the_nearest_name_wherever_it_is_asked(project: Path) -> None:
    refused = chimpbase("ls", cwd=project, env={"CHIMPBASE_PRT": "1"})
    assert refused.returncode != 0
    assert "Did you mean 'CHIMPBASE_PORT'" in refused.stderr
