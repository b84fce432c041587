"""A project with an app in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import APP


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with app.py and one migration."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_create_notes.sql").write_text("create table note (id int primary key);\n")
    return tmp_path
