"""One process of a fleet: runs the app of a module on a database until it is told to stop.

Arguments: module, database URL, JSON of {"settings": ..., "host": ..., "die_after": ..., "die_in": ...}. `host` makes
the process call its machine by that name, so that nobody compares process ids with it and only its lease counts. After
`die_after` statements, counted once it works, on the connections of the engine or those of handlers (`die_in` "engine"
or "app"), it kills itself. `memory_mb` limits its address space. It prints "ready" once it works.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import uvloop

from chimpbase import App
from chimpbase._engine import engine as engine_module
from chimpbase._pg import lexer
from chimpbase._pg.db import Db

#: What the engine does when nothing is to be done is not counted: it looks around, and keeps its leases.
COUNTED = {"begin", "commit", "insert", "jobs", "runs", "events", "kv", "streams", "consumers"}


class Bomb:
    """A statement hook that kills the process right after the server has run the chosen one of the statements."""

    def __init__(self, left: int) -> None:
        self.armed, self._left = False, left

    def before(self, sql: str, args: Sequence[object]) -> None: ...

    def after(self, sql: str, error: BaseException | None) -> None:
        if self.armed and re.split(r"\W", lexer.label(sql).strip("`"), maxsplit=1)[0] in COUNTED:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def plant(bomb: Bomb, where: str) -> None:
    """Put the bomb on the connections that handlers use (`app`), or on the engine's."""
    opened = Db.open.__func__  # type: ignore[attr-defined]

    async def open_hooked(cls: type[Db], dsn: str, **options: Any) -> Db:
        if options["application_name"].endswith(f" {where}"):
            options["hook"] = bomb
        return await opened(cls, dsn, **options)

    Db.open = classmethod(open_hooked)  # type: ignore[assignment,method-assign]


async def main(module: str, dsn: str, order: dict[str, Any], *, on_ready: Callable[[], None]) -> None:
    app: App = importlib.import_module(module).app
    if host := order.get("host"):
        engine_module.this_host = lambda: host
    if megabytes := order.get("memory_mb"):
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    bomb = Bomb(order.get("die_after", 0))
    if order.get("die_after"):
        plant(bomb, order["die_in"])
    settings: dict[str, Any] = {
        name: timedelta(seconds=value) if name in {"lease", "poll", "grace"} else value
        for name, value in order["settings"].items()
    }
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with app.running(database_url=dsn, **settings):
        bomb.armed = True
        on_ready()
        await stop.wait()


def run(module: str, dsn: str, order: dict[str, Any], *, on_ready: Callable[[], None]) -> None:
    """Live until told to stop."""
    uvloop.run(main(module, dsn, order, on_ready=on_ready))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s", stream=sys.stderr)
    run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), on_ready=lambda: print("ready", flush=True))
