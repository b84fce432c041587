"""A child of `chimpbase dev` or `chimpbase start --processes`: runs the app as its supervisor says, and leaves with it.

It imports everything but the application before it is told anything. Absent on purpose: a command line of its own. Its
one argument is the number of a pipe, on which the supervisor's message comes as a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from chimpbase.cli.developing import develop
from chimpbase.cli.failures import report
from chimpbase.cli.signals import leave
from chimpbase.cli.starting import run_app

_FAREWELL_S = 2.0


def main() -> None:
    """Run the app that is named on the pipe, until SIGTERM or until the supervisor has gone."""
    line = int(sys.argv[1])
    os.set_inheritable(line, False)
    for module in ("chimpbase.http.edge", "uvloop"):
        try:
            import_module(module)
        except ImportError:  # it is missed, and said to be, when it is needed
            continue
    told = _read_line(line)
    if not told:
        return
    message: dict[str, Any] = json.loads(told)
    threading.Thread(target=_follow, args=[line], name="lifeline", daemon=True).start()
    try:
        code = _run(message)
    except Exception as error:
        code = report(error, debug=message["debug"])
    sys.exit(code)


def _run(message: dict[str, Any]) -> int:
    embedded = Path(message["embedded"]) if message.get("embedded") else None
    overrides = {**message["overrides"], "database_url": message.get("database_url")}
    app, workers, http = message["app"], message["workers"], message["http"]
    if message["command"] == "start":
        return run_app(app, overrides=overrides, workers=workers, http=http, embedded=embedded, supervised=True)
    return develop(
        app,
        overrides=overrides,
        workers=workers,
        http=http,
        embedded=embedded,
        supervised=True,
        reloaded=message["reloaded"],
    )


def _read_line(line: int) -> bytes:
    """What comes before the end of the first line, or of the pipe."""
    told = b""
    while not told.endswith(b"\n"):
        part = os.read(line, 65536)
        if not part:
            return b""
        told += part
    return told


def _follow(line: int) -> None:
    """Stop when the supervisor has gone without a word: killed, it cannot tell us, but its end of the pipe closes."""
    os.read(line, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_FAREWELL_S)
    leave(1)


if __name__ == "__main__":
    main()
