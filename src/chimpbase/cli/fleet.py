"""Fleet: `chimpbase start --processes N`. Runs an app in N child processes and starts again what ends by itself.

Each child is a whole process of the app: it claims, beats and serves HTTP for itself, on one port that the kernel
shares out. Invariant: none outlives this process, for it holds the other end of a pipe of each. The private PostgreSQL,
if one is used, belongs to this process, so that it outlives any child.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from chimpbase._app.admin import Target, database
from chimpbase._core.settings import Settings
from chimpbase.cli.failures import FAILURE
from chimpbase.cli.offspring import Offspring
from chimpbase.cli.signals import Signals

_log = logging.getLogger("chimpbase.cli")
_STOP_MARGIN = timedelta(seconds=16)
_LASTED_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Fleet:
    """One `chimpbase start --processes`. `message` is what each child is told, beside the database and the port."""

    def __init__(
        self, *, project: Path, settings: Settings, processes: int, http: bool, message: Mapping[str, Any]
    ) -> None:
        self._project, self._settings, self._processes = project, settings, processes
        self._http, self._message = http, message

    def run(self) -> int:
        """Keep the children running until a signal; the exit code. A second signal ends them and this process at once.

        Raises:
            ConfigError: no private PostgreSQL can be run here.
        """
        patience = self._settings.grace + _STOP_MARGIN
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            main = loop.create_task(self._supervise(patience))
            signals = Signals(lambda: loop.call_soon_threadsafe(main.cancel), patience=patience)
            with signals.handled():
                try:
                    return runner.run(_until_ended(main))
                except asyncio.CancelledError:
                    if signals.received is None:
                        raise
        _log.info("stopped")
        return 0

    async def _supervise(self, patience: timedelta) -> int:
        with ExitStack() as stack:
            port = stack.enter_context(_reserved(self._settings)) if self._http else None
            async with database(self._settings, project=self._project, environ=os.environ) as target:
                told = self._told(target, port)
                keepers = [asyncio.create_task(self._keep(told, patience)) for _ in range(self._processes)]
                try:
                    done, _ = await asyncio.wait(keepers, return_when=asyncio.FIRST_COMPLETED)
                    return max(keeper.result() for keeper in done)
                finally:
                    for keeper in keepers:
                        keeper.cancel()
                    await asyncio.wait(keepers)

    def _told(self, target: Target, port: int | None) -> dict[str, Any]:
        shared = {} if port is None else {"port": port, "reuse_port": True}
        message = {**self._message, "overrides": {**self._message["overrides"], **shared}}
        if target.embedded is not None:
            message |= {"database_url": target.dsn, "embedded": str(target.embedded)}
        return message

    async def _keep(self, told: Mapping[str, Any], patience: timedelta) -> int:
        """Run one child after another; its exit code when the very first gives up at once: none will do better."""
        clock = asyncio.get_running_loop().time
        pause_s, first = _FIRST_PAUSE_S, True
        while True:
            began_s = clock()
            child = await Offspring.spawn()
            try:
                child.tell(told)
                await child.wait()
            finally:
                await child.stop(patience=patience)
            lasted_s = clock() - began_s
            if first and lasted_s < _LASTED_S and child.gave_up:
                return FAILURE
            first = False
            pause_s = _FIRST_PAUSE_S if lasted_s > _LONGEST_PAUSE_S else min(_LONGEST_PAUSE_S, pause_s * 2)
            _log.warning("process %d %s; starting another in %.1f s", child.pid, child.how_it_ended, pause_s)
            await asyncio.sleep(pause_s)


@contextmanager
def _reserved(settings: Settings) -> Generator[int]:
    """The port the children share: the one asked for, or a free one, which nobody else can take meanwhile."""
    if settings.port:
        yield settings.port
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((settings.host, 0))
        yield held.getsockname()[1]


async def _until_ended(main: asyncio.Task[int]) -> int:
    return await main
