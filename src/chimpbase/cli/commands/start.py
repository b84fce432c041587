"""`chimpbase start`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from chimpbase.cli.commands.options import AppName, Grace, Host, Http, LogFormat, LogLevel, Port, Workers, given, whole

Processes = Annotated[
    int,
    Parameter(
        converter=whole,
        validator=validators.Number(gte=1, lte=256),
        help="How many processes of the app to run; one that ends by itself is started again.",
    ),
]


def start(
    app: AppName = None,
    *,
    host: Host = None,
    port: Port = None,
    http: Http = True,
    workers: Workers = True,
    processes: Processes = 1,
    grace: Grace = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    debug: Annotated[bool, Parameter(show=False, negative=())] = False,
) -> int:
    """Run an app until SIGTERM or SIGINT."""
    from chimpbase.cli.starting import run_app, set_up_start_logs

    overrides = given(host=host, port=port, grace=grace, log_level=log_level, log_format=log_format)
    if processes == 1:
        return run_app(app, overrides=overrides, workers=workers, http=http)
    from chimpbase._app.config import read_settings
    from chimpbase.cli.discovery import find_target
    from chimpbase.cli.fleet import Fleet

    target = find_target(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings(overrides, environ=os.environ, project=target.project)
    set_up_start_logs(settings)
    message = {
        "command": "start",
        "app": app,
        "overrides": overrides,
        "workers": workers,
        "http": http,
        "debug": debug,
    }
    return Fleet(project=target.project, settings=settings, processes=processes, http=http, message=message).run()
