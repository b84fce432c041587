"""Reloading: a process that keeps the database and restarts the app in a child process when a file is saved.

    start ──► child runs ──► a save ──► SIGTERM ──► it drains ──► the spare becomes the child
                        └──► it ended by itself (a syntax error) ──► wait for a save ──► the spare becomes the child

The spare is a child that has imported everything but the application and waits to be told to, so a restart costs no
more than the application's own start. Invariant: at most one child runs the app, and none outlives this process, since
it holds the other end of a pipe of each and they leave when that closes. The private PostgreSQL belongs to this
process, so it stays up between children and goes with this one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from chimpbase._app.admin import Target, database
from chimpbase._app.config import read_settings
from chimpbase.cli.developing import set_up_readable_logs
from chimpbase.cli.offspring import Offspring
from chimpbase.cli.signals import Signals
from chimpbase.cli.watching import Watcher

_log = logging.getLogger("chimpbase.cli")
_STOP_MARGIN = timedelta(seconds=15)


class Supervisor:
    """One `chimpbase dev`. `message` is what each child is told, beside the database."""

    def __init__(
        self, *, project: Path, watch: Sequence[Path], overrides: Mapping[str, Any], message: Mapping[str, Any]
    ) -> None:
        self._project = project
        self._watch = watch
        self._overrides = overrides
        self._message = message

    def run(self) -> int:
        """Supervise until a signal; the exit code. A second signal ends this process and the child at once.

        Raises:
            ConfigError: a setting is wrong, or no private PostgreSQL can be run here.
        """
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            main = loop.create_task(self._supervise())
            signals = Signals(lambda: loop.call_soon_threadsafe(main.cancel), patience=timedelta(minutes=1))
            with signals.handled():
                try:
                    runner.run(_until_ended(main))
                except asyncio.CancelledError:
                    if signals.received is None:
                        raise
        return 0

    async def _supervise(self) -> None:
        settings = read_settings(self._overrides, environ=os.environ, project=self._project)
        set_up_readable_logs(settings)
        patience = settings.grace + _STOP_MARGIN
        # before the child: an edit while it starts must restart it
        watcher = Watcher(*self._watch)
        async with database(settings, project=self._project, environ=os.environ) as target:
            spare = await Offspring.spawn()
            changed: list[str] = []
            try:
                while True:
                    child = spare if spare.waits else await Offspring.spawn()
                    child.tell(self._told(target, reloaded=bool(changed)))
                    try:
                        spare = await Offspring.spawn()
                        changed = await self._until_changed(child, watcher)
                    finally:
                        await child.stop(patience=patience)
            finally:
                await spare.stop(patience=patience)

    def _told(self, target: Target, *, reloaded: bool) -> dict[str, Any]:
        message = {**self._message, "reloaded": reloaded}
        if target.embedded is not None:
            message |= {"database_url": target.dsn, "embedded": str(target.embedded)}
        return message

    async def _until_changed(self, child: Offspring, watcher: Watcher) -> list[str]:
        ended = asyncio.create_task(child.wait())
        saved = asyncio.create_task(watcher.changed())
        try:
            await asyncio.wait({ended, saved}, return_when=asyncio.FIRST_COMPLETED)
            if not saved.done():
                _log.warning("the app %s; save a file to start it again", child.how_it_ended)
            changed = await saved
        finally:
            ended.cancel()
            saved.cancel()
        _log.info("%s%s changed; restarting", *self._named(changed))
        return changed

    def _named(self, changed: Sequence[str]) -> tuple[str, str]:
        others = f" and {len(changed) - 1} more" if changed[1:] else ""
        return os.path.relpath(changed[0], self._project), others


async def _until_ended(main: asyncio.Task[None]) -> None:
    await main
