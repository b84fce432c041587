"""Watching: waits until a file of the project changes.

The kernel's notice is only a hint to look: what decides is whether the files differ from when they were last seen, so
an edit during a restart is not lost and touching a file's directory restarts nothing. Directories are watched one by
one and not as a tree, because the database's own directory and virtual environments lie in it and never rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

_SUFFIXES = frozenset({".py", ".sql"})
_NAMES = frozenset({"pyproject.toml", ".env"})
_PASSED_OVER = frozenset({"__pycache__", "node_modules", "venv", "site-packages", "build", "dist"})
_MOST_DIRECTORIES = 2000
_SETTLED_MS = 30
_LOOK_AGAIN_MS = 2000

Snapshot = dict[str, tuple[int, int]]


class Watcher:
    """What the watched files looked like when somebody last asked."""

    def __init__(self, *roots: Path) -> None:
        self._roots = roots
        self._seen: Snapshot = self._look()

    async def changed(self) -> list[str]:
        """Wait until files have changed since the last answer, and nothing has for 30 ms; their paths."""
        from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]  # trio's types are not here

        while True:
            if found := self._differences():
                return found
            directories = list(self._directories())
            notices = awatch(
                *directories,
                watch_filter=None,
                step=_SETTLED_MS,
                debounce=_SETTLED_MS * 10,
                recursive=False,
                yield_on_timeout=True,
                rust_timeout=_LOOK_AGAIN_MS,
                ignore_permission_denied=True,
            )
            async with aclosing(notices):
                async for _ in notices:
                    if found := self._differences():
                        return found
                    if set(directories) != set(self._directories()):
                        break  # a new directory needs a watch of its own

    def _differences(self) -> list[str]:
        now = self._look()
        before, self._seen = self._seen, now
        return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))

    def _look(self) -> Snapshot:
        found: Snapshot = {}
        for directory in self._directories():
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if (Path(entry.name).suffix in _SUFFIXES or entry.name in _NAMES) and entry.is_file():
                            status = entry.stat()
                            found[entry.path] = (status.st_mtime_ns, status.st_size)
            except OSError:  # it went while we looked
                continue
        return found

    def _directories(self) -> Iterator[str]:
        count = 0
        for root in self._roots:
            for place, names, _ in os.walk(root):
                names[:] = [name for name in names if not name.startswith(".") and name not in _PASSED_OVER]
                yield place
                count += 1
                if count >= _MOST_DIRECTORIES:
                    return
