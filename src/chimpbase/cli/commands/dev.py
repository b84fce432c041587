"""`chimpbase dev`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chimpbase.cli.commands.options import AppName, Grace, Host, Http, LogFormat, LogLevel, Port, Workers, given
from chimpbase.cli.discovery import find_target


def dev(
    app: AppName = None,
    *,
    host: Host = None,
    port: Port = None,
    http: Http = True,
    workers: Workers = True,
    reload: Annotated[
        bool, Parameter(negative="--no-reload", show_default=False, help="Restart the app when a file is saved.")
    ] = True,
    grace: Grace = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    debug: Annotated[bool, Parameter(show=False, negative=())] = False,
) -> int:
    """Run an app until Ctrl-C, in a child process that is restarted when a file is saved."""
    target = find_target(app, environ=os.environ, directory=Path.cwd())
    overrides = given(host=host, port=port, grace=grace, log_level=log_level, log_format=log_format)
    if not reload:
        from chimpbase.cli.developing import develop

        return develop(app, overrides=overrides, workers=workers, http=http)
    from chimpbase.cli.reloading import Supervisor

    watch = {target.project, Path.cwd(), target.root}
    message = {"command": "dev", "app": app, "overrides": overrides, "workers": workers, "http": http, "debug": debug}
    roots = [path for path in watch if not any(other in path.parents for other in watch)]
    return Supervisor(project=target.project, watch=roots, overrides=overrides, message=message).run()
