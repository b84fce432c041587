"""Serving: one app, from its start to its clean stop, in this process. What `start` does, and each child of `dev`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from chimpbase import App, Runtime
from chimpbase.cli.banner import banner, summary
from chimpbase.cli.listing import listing
from chimpbase.cli.paint import Paint
from chimpbase.cli.signals import Signals, end_process

_log = logging.getLogger("chimpbase.cli")

#: What a stop may take beyond the grace for running jobs: closing connections, and the private server's own stop.
_STOP_MARGIN = timedelta(seconds=15)
_THREADS_MAY_TAKE = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How an app is to run. `overrides` are settings; `supervised` says that Ctrl-C is another process's business.

    `embedded` is the data directory of the private server when another process keeps it; `show` prints the banner, and
    `notes` are words for it.
    """

    project: Path
    workers: bool
    http: bool
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    show: bool = False
    notes: Sequence[str] = ()
    embedded: Path | None = None
    supervised: bool = False
    reloaded: bool = False


def serve(app: App, plan: Plan, *, grace: timedelta) -> int:
    """Run an app until a signal asks it to stop; the exit code. A second signal ends the process at once.

    Raises: whatever keeps the app from starting.
    """
    make_loop = _loop_factory()
    with asyncio.Runner(loop_factory=make_loop) as runner:
        loop = runner.get_loop()
        main = loop.create_task(_run(app, plan))
        signals = Signals(lambda: loop.call_soon_threadsafe(main.cancel), patience=grace + _STOP_MARGIN)
        with signals.handled(ignore_interrupts=plan.supervised):
            try:
                runner.run(_until_cancelled(main))
            except asyncio.CancelledError:
                if signals.received is None:
                    raise
            _log.log(logging.DEBUG if plan.supervised else logging.INFO, "stopped")
            return end_process(0, wait=_THREADS_MAY_TAKE)


async def _until_cancelled(main: asyncio.Task[None]) -> None:
    await main


async def _run(app: App, plan: Plan) -> None:
    running = app.running(project=plan.project, workers=plan.workers, http=plan.http, **plan.overrides)
    async with running as runtime:
        _announce(app, runtime, plan)
        spare_collections()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            _log.log(logging.DEBUG if plan.supervised else logging.INFO, "stopping")


def spare_collections() -> None:
    """Let no garbage collection look at what is there now, which is modules and definitions and stays to the end.

    It is a matter of the whole process, so the program does it, and never the library.
    """
    gc.collect()
    gc.freeze()


def _announce(app: App, runtime: Runtime, plan: Plan) -> None:
    took_ms = runtime.started_in.total_seconds() * 1000
    where = f" on {runtime.address}" if runtime.address else ""
    if plan.show and not plan.reloaded:
        paint = Paint.on_stream(sys.stderr, environ=os.environ)
        text = banner(
            runtime, listing(app), embedded=plan.embedded, notes=plan.notes, paint=paint, directory=Path.cwd()
        )
        print(text, file=sys.stderr, flush=True)
    _log.info(
        "%s %s%s in %.0f ms",
        app.name,
        "reloaded" if plan.reloaded else "started",
        where,
        took_ms,
        extra={"data": summary(runtime)},
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
