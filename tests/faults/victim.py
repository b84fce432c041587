"""A process that plays a scene until its bomb goes off."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.faults.planting import Bomb, planted
from tests.faults.scenes import act, build

PACE: dict[str, Any] = {
    "lease": timedelta(seconds=1),
    "poll": timedelta(seconds=0.05),
    "grace": timedelta(seconds=1),
    "notify": False,
}


def main(dsn: str, order: dict[str, Any], line: Connection) -> None:
    """The entry of the process. It says "ready" once it works, and obeys "act" and "stop"."""
    logging.disable(logging.CRITICAL)
    asyncio.run(_play(dsn, order, line))
    os._exit(0)


async def _play(dsn: str, order: dict[str, Any], line: Connection) -> None:
    bomb = Bomb(kind="kill", moment=order["moment"], at=order["at"], labels=order["labels"])
    bomb.in_flight = lambda: _announce(Path(order["directory"]))
    bomb.armed = order["armed"] == "start"
    app = build()
    with planted(bomb, where=order["where"]):
        async with app.running(database_url=dsn, project=Path(order["directory"]), **PACE):
            bomb.armed = bomb.armed or order["armed"] == "ready"
            line.send("ready")
            while True:
                said = await asyncio.to_thread(line.recv)
                if said == "stop":
                    bomb.armed = True
                    break
                line.send(await act(app))
    line.send("stopped")


def _announce(directory: Path) -> None:
    """Tell that the statement is about to be sent, and wait until its way is blocked."""
    waiting = threading.Event()
    (directory / "at the point").touch()
    while not (directory / "go").exists():
        waiting.wait(0.002)
