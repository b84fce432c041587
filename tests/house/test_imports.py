"""Imports: the contracts in pyproject.toml, checked where a plain test run sees them."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.house.checkout import ROOT

LINT = "from importlinter.cli import lint_imports_command as lint; lint()"


def test_imports_keep_the_contracts() -> None:
    lint = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
