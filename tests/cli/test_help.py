"""Help: every command is listed, explained and shown by examples that parse."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chimpbase.cli.help import COMMANDS
from chimpbase.cli.program import program
from tests.cli.command import chimpbase, environment

EXAMPLES = [
    line.partition("  #")[0].partition("|")[0].partition(" > ")[0].strip()
    for help in COMMANDS.values()
    for line in help.examples.strip().splitlines()
]
HEAVY = {"asyncpg.pgproto", "starlette", "uvicorn", "watchfiles", "pydantic", "anyio", "rich.markdown"}


def test_help_lists_every_command(tmp_path: Path) -> None:
    shown = chimpbase("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert [name for name in COMMANDS if f"│ {name} " not in shown.stdout] == []
    assert "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found." in shown.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    program()([name, "--help"], exit_on_error=False, result_action="return_value")
    shown = capsys.readouterr().out
    assert COMMANDS[name].line in shown
    assert f"chimpbase {name}" in shown.partition("Examples:")[2]
    assert max(map(len, COMMANDS[name].text.splitlines())) <= 80


@pytest.mark.parametrize(("name", "verb"), [(name, verb) for name, page in COMMANDS.items() for verb in page.verbs])
def test_every_verb_of_a_group_has_a_page(name: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    program()([name, verb, "--help"], exit_on_error=False, result_action="return_value")
    assert COMMANDS[name].verbs[verb] in capsys.readouterr().out
    assert f"chimpbase {name} {verb}" in COMMANDS[name].examples


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_command_line_that_parses(example: str) -> None:
    words = shlex.split(example)
    begin = words.index("chimpbase")
    command, _, _ = program().parse_args(words[begin + 1 :], exit_on_error=False, print_error=False)
    name = words[begin + 1]
    assert command.__name__ == words[begin + (2 if COMMANDS[name].verbs else 1)]
    assert command.__module__.startswith(f"chimpbase.cli.commands.{name}")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from chimpbase.cli.program import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    modules = set(run.stderr.split())
    assert "chimpbase.cli.help" in modules
    assert modules & (HEAVY - {"asyncpg.pgproto"}) == set()
    assert [module for module in modules if module.startswith("chimpbase.cli.commands.")] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["statr"], "There is no command 'statr'. Did you mean 'start'?"),
        (["zzz"], "The commands are: dev, start,"),
        (["start", "--prot", "1"], "Unknown option: --prot. Did you mean --port?"),
        (["start", "--port", "x"], "--port"),
        (["ls", "-o", "yaml"], '"table", "json"'),
        (["call"], "ACTION"),
        (["cron", "lst"], "There is no command 'cron lst'. Did you mean 'ls'?"),
        (["cron", "zzz"], "The commands are: ls, next,"),
        (["cron", "pause"], "SCHEDULE"),
        (["cron", "next", "0 9 * *"], "has 4 fields"),
        (["cron", "next", "@daily", "-n", "0"], "--count"),
        (["migrate", "--check", "--sql"], "Give one of them."),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(words: list[str], sentence: str, project: Path) -> None:
    refused = chimpbase(*words, cwd=project)
    assert refused.returncode == 2
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""


def test_version_is_one_line(tmp_path: Path) -> None:
    shown = chimpbase("version", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("chimpbase ")
    assert shown.stdout.count("\n") == 1
