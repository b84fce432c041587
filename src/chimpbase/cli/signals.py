"""Signals: the first SIGINT or SIGTERM asks for a clean stop, the second ends the process at once.

The handlers are Python's own and not the event loop's, so the second signal works while a handler of the application
blocks the loop. Absent on purpose: SIGHUP and reload, which are the supervisor's.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """What arrived. `on_first` is called once, from the signal handler: it may only set things and wake somebody."""

    def __init__(self, on_first: Callable[[], object], *, patience: timedelta) -> None:
        self.received: int | None = None
        self._on_first = on_first
        self._patience_s = patience.total_seconds()
        self._limit: threading.Timer | None = None

    @contextmanager
    def handled(self, *, ignore_interrupts: bool = False) -> Generator[Signals]:
        """Handle both signals inside the block. `ignore_interrupts` leaves Ctrl-C to the process above this one."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            ignored = ignore_interrupts and number == signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ignored else self._handle)
        try:
            yield self
        finally:
            if self._limit is not None:
                self._limit.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._end(number)
        self.received = number
        # a stop that hangs must not outlive its caller's patience: whoever asked would send SIGKILL next
        self._limit = threading.Timer(self._patience_s, self._end, [number])
        self._limit.daemon = True
        self._limit.start()
        self._on_first()

    def _end(self, number: int) -> None:
        leave(128 + number)


def end_process(code: int, *, wait: timedelta) -> int:
    """`code`, once every thread that could hold up the interpreter's exit has ended; after `wait` the process is gone.

    A plain `def` handler cannot be interrupted: its thread would keep a stopped process alive for as long as it likes,
    while its job already runs elsewhere.
    """
    late = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    rest_s = wait.total_seconds() / max(len(late), 1)
    for thread in late:
        thread.join(rest_s)
    if any(thread.is_alive() for thread in late):
        leave(code)
    return code


def leave(code: int) -> NoReturn:
    """End the process now, without the interpreter's farewell; what was printed is still written out if it can be."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a signal may have interrupted the very write that this would continue
            stream.flush()
    os._exit(code)
