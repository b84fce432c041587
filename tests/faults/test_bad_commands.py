"""Bad words for every command: an exit code and a sentence, never a traceback, and never a statement of the word's own.

The commands and their arguments are found, not listed: one that is added tomorrow is tried tomorrow.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chimpbase.cli.help import COMMANDS
from chimpbase.cli.program import run

#: These run until they are stopped, or start something else.
_OTHERS = {("dev",), ("start",), ("psql",), ("stream", "tail"), ("event", "tail")}
WORDS = (
    "",
    "'; drop table canary; --",
    "a\r\nb\x1b[31m\u202e",
    "x" * 10_000,
    "-1",
    "NaN",
    "{0.__class__}",
    "\udcff",
    "1e400",
)
_APP = """\
from chimpbase import App, Ctx, action, worker

@action
async def place(ctx: Ctx, text: str) -> str:
    return text

@worker("note")
async def note(ctx: Ctx, text: str) -> None: ...

app = App("bad", register=[place, note])
"""


def lines() -> Iterator[tuple[str, ...]]:
    """Every command, once for each argument and option, with a bad word there: not the same for all of them."""
    for command, page in COMMANDS.items():
        module = importlib.import_module(f"chimpbase.cli.commands.{command}")
        for verb in page.verbs or [command]:
            parameters = inspect.signature(getattr(module, verb)).parameters.values()
            words = (command,) if verb == command else (command, verb)
            if words in _OTHERS:
                continue
            needed = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_POSITIONAL]
            for n, parameter in enumerate(parameters):
                if isinstance(parameter.default, bool):
                    continue  # a flag takes no word, and some of them go on until they are stopped
                word = WORDS[(n + len(words[-1])) % len(WORDS)]
                if parameter.kind is parameter.KEYWORD_ONLY:
                    option = f"--{parameter.name.strip('_').replace('_', '-')}"
                    yield (*words, *("note" for _ in needed), option, word)
                else:
                    yield (*words, *(word if one is parameter else "note" for one in [*needed, parameter]))


@pytest.fixture
def project(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(_APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", dsn)
    asyncio.run(_sing(dsn))
    return tmp_path


async def _sing(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table canary (sings boolean); insert into canary values (true)")
    await connection.close()


async def _sings(dsn: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("select sings from canary")
    finally:
        await connection.close()


@pytest.mark.timeout(150)  # each line is a start of the program, with a connection of its own
def test_a_bad_word_gets_a_sentence_and_an_exit_code(
    project: Path, dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate"]) == 0
    wrong: list[str] = []
    for line in lines():
        code = run(line)
        told = capsys.readouterr()
        if code not in {0, 1, 2, 3} or "Traceback" in told.err or "\x1b" in told.err + told.out:
            wrong.append(f"{line!r:.160}: {code}, {told.err[-300:]}")
    assert "\n".join(wrong) == ""
    assert asyncio.run(_sings(dsn))
