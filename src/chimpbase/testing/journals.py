"""Journals of real runs as regression tests: code that could not go on with them fails the test."""

from __future__ import annotations

from pathlib import Path

from chimpbase import App
from chimpbase._app.replay import replay_journal


async def replay(app: App, journal: Path | str, *, exact: bool = False) -> list[str]:
    """Run a workflow's code over the journal of a run, given as a file or as its text; the keys that it met.

    Nothing is run but the workflow's own code, and no database is needed. A run of an older version is moved by
    `migrate` first. The code may have more steps than the journal holds: it is followed to the first of them. With
    `exact` it must ask for the same and end in the same way.

    Raises:
        AssertionError: a run like this one could not go on with the code, and why.
        UsageError: it is no journal.
        OSError: the file cannot be read.
    """
    return await replay_journal(app.registry, _text(journal), exact=exact)


def _text(journal: Path | str) -> str:
    return journal.read_text(encoding="utf-8") if isinstance(journal, Path) else journal
