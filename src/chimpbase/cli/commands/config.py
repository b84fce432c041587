"""`chimpbase config`."""

from __future__ import annotations

import os
from pathlib import Path

from chimpbase._app.admin import configured_dsn
from chimpbase._app.config import read_settings
from chimpbase.cli.commands.options import AppName, Output
from chimpbase.cli.discovery import project_of
from chimpbase.cli.logs import to_json, visible
from chimpbase.cli.paint import columns


def config(app: AppName = None, *, output: Output = "table") -> int:
    """Show every setting, its effective value, and where that came from."""
    project = project_of(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings({}, environ=os.environ, project=project)
    by_libpq = settings.database_url is None and configured_dsn(settings, environ=os.environ) is not None
    rows = [
        (line.name, line.value, "PGHOST and its like" if by_libpq and line.name == "database_url" else line.source)
        for line in settings.describe()
    ]
    if output == "json":
        print(to_json([{"name": name, "value": value or None, "source": source} for name, value, source in rows]))
        return 0
    for line in columns([("SETTING", "VALUE", "SOURCE"), *((n, visible(v) or "-", s) for n, v, s in rows)]):
        print(line)
    return 0
