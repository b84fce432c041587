"""`chimpbase ls`."""

from __future__ import annotations

import os
from pathlib import Path

from chimpbase._app.config import read_settings
from chimpbase.cli.commands.options import AppName, Output
from chimpbase.cli.discovery import find_target, load_app
from chimpbase.cli.listing import listing
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.paint import columns, near


def ls(app: AppName = None, *, output: Output = "table") -> int:
    """List everything an app registers. Asks no database."""
    directory = Path.cwd()
    target = find_target(app, environ=os.environ, directory=directory)
    read_settings({}, environ=os.environ, project=target.project)  # a misspelt variable is refused here, too
    entries = listing(load_app(target))
    if output == "json":
        print(to_json([{**entry._asdict(), "place": entry.place or None} for entry in entries]))
        return 0
    rows = [(one.kind, one.name, visible(one.details), near(one.place, directory=directory)) for one in entries]
    for line in columns([("KIND", "NAME", "DETAILS", "PLACE"), *rows]):
        print(line)
    return 0
