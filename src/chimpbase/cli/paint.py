"""Paint: colour for people. Nothing is painted unless the stream is a terminal and NO_COLOR is not set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_CODES = {
    "blue": "34",
    "bold": "1",
    "cyan": "36",
    "dim": "2",
    "green": "32",
    "magenta": "35",
    "red": "31",
    "white": "37",
    "yellow": "33",
}


class Paint:
    """Paints text when it is on, and leaves it alone when it is off."""

    def __init__(self, on: bool) -> None:
        self.on = on

    @classmethod
    def on_stream(cls, stream: IO[str], *, environ: Mapping[str, str]) -> Paint:
        """The paint that suits a stream: off when it is no terminal, or NO_COLOR is set, or TERM is dumb."""
        return cls(stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb")

    def __call__(self, text: str, tone: str) -> str:
        return f"\x1b[{_CODES[tone]}m{text}\x1b[0m" if self.on and text else text


def columns(rows: Sequence[Sequence[str]], *, gap: int = 2) -> list[str]:
    """Rows as lines whose columns begin at the same place. The last column is not filled up."""
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def near(place: str, *, directory: Path) -> str:
    """`file:line` with the file as seen from a directory, when it lies below it."""
    file, colon, line = place.rpartition(":")
    if not colon:
        return place
    relative = os.path.relpath(file, directory) if Path(file).is_absolute() else file
    return place if relative.startswith("..") else f"{relative}:{line}"
