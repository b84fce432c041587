"""The heartbeat: keeps this process's lease from a thread and a connection of its own.

A handler that blocks the event loop must not lose the lease, so the beat does not run on that loop. The same thread
watches the loop: when it has not answered for half a lease, the stack that blocks it is logged.

States of a process row: live (beats), dead (somebody saw a lease without a beat, for ever), removed. A process that
finds itself dead must register anew: its old id owns nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from datetime import timedelta

from chimpbase._core.errors import DatabaseError
from chimpbase._core.values import ProcessId
from chimpbase._pg.db import Db
from chimpbase._store import processes

_log = logging.getLogger("chimpbase.engine.heart")
_RETRY_S = 0.5


class Heart:
    """Beats every third of the lease until stopped.

    `open_db` opens the thread's own connection, on the thread's own loop. `on_lost` is called on the runtime's loop
    when the lease is gone.
    """

    def __init__(
        self,
        open_db: Callable[[], Awaitable[Db]],
        *,
        process: ProcessId,
        lease: timedelta,
        on_lost: Callable[[], None],
    ) -> None:
        self._open_db = open_db
        self._process = process
        self._lease_s = lease.total_seconds()
        self._on_lost = on_lost
        self._runtime_loop = asyncio.get_running_loop()
        self._runtime_thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._done: Future[None] = Future()
        self._answered = True
        self._silent_s = 0.0

    def start(self) -> None:
        """Begin to beat."""
        threading.Thread(target=self._run, name="chimpbase-heart", daemon=True).start()

    async def stop(self, *, patience_s: float = 2.0) -> None:
        """Stop beating. The row stays; whoever stops the process removes it."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:  # its loop has closed already
                return
        await asyncio.wait({asyncio.wrap_future(self._done)}, timeout=patience_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._beat_until_stopped())
        except Exception as error:
            _log.error("the heartbeat ended", exc_info=error)
            self._tell_lost()
        finally:
            self._done.set_result(None)

    async def _beat_until_stopped(self) -> None:
        self._loop = asyncio.get_running_loop()
        db: Db | None = None
        beaten_at = self._loop.time()
        try:
            while not self._stop.is_set():
                self._probe_runtime_loop()
                rest_s = self._lease_s / 3
                try:
                    db = db or await self._open_db()
                    async with db.acquire() as connection:
                        held = await processes.beat(connection, process=self._process)
                except DatabaseError as error:
                    rest_s = min(_RETRY_S, rest_s)
                    if self._loop.time() - beaten_at > self._lease_s:
                        _log.warning("no heartbeat for a whole lease (%g s): %s", self._lease_s, error)
                        beaten_at = self._loop.time()
                else:
                    if not held:
                        return self._tell_lost()
                    beaten_at = self._loop.time()
                await self._rest(rest_s)
        finally:
            if db is not None:
                await db.close(grace=timedelta(seconds=0.5))

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    def _tell_lost(self) -> None:
        try:
            self._runtime_loop.call_soon_threadsafe(self._on_lost)
        except RuntimeError:  # the runtime has ended; nobody is left to tell
            return

    def _probe_runtime_loop(self) -> None:
        if self._answered:
            self._answered, self._silent_s = False, 0.0
            try:
                self._runtime_loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the runtime has ended
                return
            return
        self._silent_s += self._lease_s / 3
        frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if self._silent_s >= self._lease_s / 2 and (frame := frames.get(self._runtime_thread)):
            stack = "".join(traceback.format_stack(frame)[-8:])
            _log.warning("the event loop has been blocked for about %.0f s by:\n%s", self._silent_s, stack)

    def _answer(self) -> None:
        self._answered = True
