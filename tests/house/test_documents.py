"""Documents: every Python block in README.md and docs/ is a program, and it runs.

`<!-- not run: why -->` above a block keeps it from being run, and the reason shows in the test report.
`<!-- continues -->` above a block puts the block before it in front.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.checkout import ROOT, files, name

BLOCK = re.compile(
    r"^(?:<!-- (?P<note>not run: (?P<why>.+?)|continues) -->\n+)?^```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGES = [path for path in files() if path.suffix == ".md" and (path.parent == ROOT or ROOT / "docs" in path.parents)]
LIMIT_S = 50


@dataclass(frozen=True, kw_only=True)
class Block:
    page: Path
    line: int
    code: str
    excuse: str | None

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def _blocks(page: Path, text: str) -> list[Block]:
    blocks: list[Block] = []
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        # Blank lines in front make the line numbers of a traceback those of the page.
        code = "\n" * line + block["code"]
        if block["note"] == "continues":
            before = blocks[-1].code
            code = before + "\n" * (line - before.count("\n")) + block["code"]
        blocks.append(Block(page=page, line=line, code=code, excuse=block["why"]))
    return blocks


@pytest.mark.parametrize("block", [b for p in PAGES for b in _blocks(p, p.read_text(encoding="utf-8"))], ids=str)
def test_the_block_runs(block: Block, dsn: str, tmp_path: Path) -> None:
    if block.excuse:
        pytest.skip(block.excuse)
    program = tmp_path / f"page_{block.page.stem}.py"  # a page may be called like a module of Python itself
    program.write_text(block.code, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert run.returncode == 0, f"{block}\n{run.stdout}{run.stderr}"


def test_blocks_are_found_with_their_notes() -> None:
    text = (
        "```python\na = 1\n```\n\n<!-- continues -->\n```python\nassert a\n```\n\n"
        "<!-- not run: it needs a bank -->\n\n```python\npay()\n```\n```console\n$ no\n```\n"
    )
    first, second, third = _blocks(ROOT / "x.md", text)
    assert (first.line, first.excuse) == (1, None)
    assert second.code.split() == ["a", "=", "1", "assert", "a"]
    assert second.code.splitlines().index("assert a") == text.splitlines().index("assert a")
    assert third.excuse == "it needs a bank"
