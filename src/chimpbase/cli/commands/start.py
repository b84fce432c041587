"""`chimpbase start`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from chimpbase._app.config import read_settings
from chimpbase.cli.commands.options import AppName, Grace, Host, Http, LogFormat, LogLevel, Port, Workers, given
from chimpbase.cli.discovery import find_target, load_app
from chimpbase.cli.logs import set_up_logs
from chimpbase.cli.paint import Paint
from chimpbase.cli.serving import Plan, serve


def start(
    app: AppName = None,
    *,
    host: Host = None,
    port: Port = None,
    http: Http = True,
    workers: Workers = True,
    grace: Grace = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> int:
    """Run an app until SIGTERM or SIGINT."""
    overrides = given(host=host, port=port, grace=grace, log_level=log_level, log_format=log_format)
    target = find_target(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings(overrides, environ=os.environ, project=target.project)
    terminal = sys.stderr.isatty()
    format = "text" if settings.log_format == "text" or (settings.log_format == "auto" and terminal) else "json"
    paint = Paint.on_stream(sys.stderr, environ=os.environ)
    set_up_logs(level=settings.log_level, format=format, stream=sys.stderr, colour=paint.on)
    plan = Plan(
        project=target.project,
        workers=workers,
        http=http,
        overrides=overrides,
        show=format == "text" and terminal,
        notes=("Ctrl-C ends",),
    )
    return serve(load_app(target), plan, grace=settings.grace)
