"""Developing: an app as `chimpbase dev` runs it, in the process that holds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from chimpbase._app.config import Settings, read_settings
from chimpbase.cli.discovery import find_target, load_app
from chimpbase.cli.logs import Format, set_up_logs
from chimpbase.cli.paint import Paint
from chimpbase.cli.serving import Plan, serve

#: A job that a restart interrupts goes back to its queue without an attempt charged, so waiting long gains nothing.
_DEV_GRACE = timedelta(milliseconds=500)


def develop(
    given: str | None,
    *,
    overrides: Mapping[str, Any],
    workers: bool,
    http: bool,
    embedded: Path | None = None,
    supervised: bool = False,
    reloaded: bool = False,
) -> int:
    """Run an app with a banner and readable log lines until a signal; the exit code."""
    target = find_target(given, environ=os.environ, directory=Path.cwd())
    settings = read_settings(overrides, environ=os.environ, project=target.project)
    format = set_up_readable_logs(settings)
    grace = settings.grace if "grace" in settings.sources else _DEV_GRACE
    plan = Plan(
        project=target.project,
        workers=workers,
        http=http,
        overrides={**overrides, "grace": grace},
        show=format == "text",
        notes=("reload on save", "Ctrl-C ends") if supervised else ("Ctrl-C ends",),
        embedded=embedded,
        supervised=supervised,
        reloaded=reloaded,
    )
    return serve(load_app(target), plan, grace=grace)


def set_up_readable_logs(settings: Settings) -> Format:
    """Text, unless JSON was asked for: who develops reads, also through a pipe. Colour on a terminal only."""
    format: Format = "json" if settings.log_format == "json" else "text"
    paint = Paint.on_stream(sys.stderr, environ=os.environ)
    set_up_logs(level=settings.log_level, format=format, stream=sys.stderr, colour=paint.on)
    return format
