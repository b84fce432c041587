"""`chimpbase workflow contracts`, as a deployment asks it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import chimpbase


def test_contracts_are_written_and_checked_without_a_database(project: Path) -> None:
    env = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}

    def ask(*words: str) -> tuple[int, str]:
        done = chimpbase("workflow", "contracts", *words, cwd=project, env=env)
        return done.returncode, done.stdout

    code, shown = ask("check")
    assert (code, "checkout@2" in shown, "missing" in shown) == (1, True, True)
    code, shown = ask("write")
    assert (code, "written" in shown) == (0, True)
    (file,) = (project / "workflow-contracts").iterdir()
    assert file.name == "checkout.v2.contract.json"
    code, shown = ask("check", "-o", "json")
    assert (code, json.loads(shown)[0]["standing"]) == (0, "unchanged")
    source = project / "app.py"
    source.write_text(
        source.read_text().replace("async def checkout(wf: Wf, order: int)", "async def checkout(wf: Wf, order: str)")
    )
    code, shown = ask("check")
    assert (code, "give it version 3" in shown) == (1, True)
