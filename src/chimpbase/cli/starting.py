"""Starting: an app as `chimpbase start` runs it, in the process that holds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chimpbase._app.config import read_settings
from chimpbase._core.settings import Settings
from chimpbase.cli.discovery import find_target, load_app
from chimpbase.cli.logs import set_up_logs
from chimpbase.cli.paint import Paint
from chimpbase.cli.serving import Plan, serve


def run_app(
    given: str | None,
    *,
    overrides: Mapping[str, Any],
    workers: bool,
    http: bool,
    embedded: Path | None = None,
    supervised: bool = False,
) -> int:
    """Run an app until a signal; the exit code. Log lines are text on a terminal and JSON elsewhere."""
    target = find_target(given, environ=os.environ, directory=Path.cwd())
    settings = read_settings(overrides, environ=os.environ, project=target.project)
    shown = set_up_start_logs(settings) and not supervised
    plan = Plan(
        project=target.project,
        workers=workers,
        http=http,
        overrides=overrides,
        show=shown,
        notes=("Ctrl-C ends",),
        embedded=embedded,
        supervised=supervised,
    )
    return serve(load_app(target), plan, grace=settings.grace)


def set_up_start_logs(settings: Settings) -> bool:
    """Text on a terminal or when asked for, else JSON; whether a person reads along."""
    terminal = sys.stderr.isatty()
    text = settings.log_format == "text" or (settings.log_format == "auto" and terminal)
    paint = Paint.on_stream(sys.stderr, environ=os.environ)
    set_up_logs(level=settings.log_level, format="text" if text else "json", stream=sys.stderr, colour=paint.on)
    return text and terminal
