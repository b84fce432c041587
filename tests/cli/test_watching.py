"""Watching: an edit is seen, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chimpbase.cli.watching import Watcher

pytestmark = pytest.mark.anyio


async def test_an_edit_a_new_file_and_a_removal_are_each_seen(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1")
    watcher = Watcher(tmp_path)
    waiting = asyncio.create_task(watcher.changed())
    (tmp_path / "app.py").write_text("22")
    assert await asyncio.wait_for(waiting, 10) == [str(tmp_path / "app.py")]
    waiting = asyncio.create_task(watcher.changed())
    (tmp_path / "new.sql").write_text("select 1")
    assert await asyncio.wait_for(waiting, 10) == [str(tmp_path / "new.sql")]
    (tmp_path / "app.py").unlink()
    assert await asyncio.wait_for(watcher.changed(), 10) == [str(tmp_path / "app.py")]


async def test_an_edit_made_while_nobody_waits_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1")
    watcher = Watcher(tmp_path)
    (tmp_path / "app.py").write_text("22")
    assert await asyncio.wait_for(watcher.changed(), 10) == [str(tmp_path / "app.py")]


async def test_a_file_in_a_directory_made_later_is_seen(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    waiting = asyncio.create_task(watcher.changed())
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.py").write_text("1")
    assert await asyncio.wait_for(waiting, 10) == [str(tmp_path / "shop" / "orders.py")]


async def test_what_is_no_source_and_what_lies_in_hidden_places_restarts_nothing(tmp_path: Path) -> None:
    for directory in (".chimpbase/pg", ".venv/lib", "node_modules/x", "__pycache__"):
        (tmp_path / directory).mkdir(parents=True)
    watcher = Watcher(tmp_path)
    waiting = asyncio.create_task(watcher.changed())
    for file in (".chimpbase/pg/a.py", ".venv/lib/b.py", "node_modules/x/c.py", "__pycache__/d.py", "notes.txt"):
        (tmp_path / file).write_text("1")
    (tmp_path / "app.py").write_text("1")
    assert await asyncio.wait_for(waiting, 10) == [str(tmp_path / "app.py")]
