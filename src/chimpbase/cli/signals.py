"""Signals: the first SIGINT or SIGTERM asks for a clean stop, the second ends the process at once.

The handlers are Python's own and not the event loop's, so the second signal works while a handler of the application
blocks the loop. Absent on purpose: SIGHUP and reload, which are the supervisor's.
"""

from __future__ import annotations

import os
import select
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
    """What arrived. `on_first` is called once, from the signal handler: it may only set things and wake somebody.

    `patience` is how long a stop may take; then the process is ended, since whoever asked would send SIGKILL next.
    """

    def __init__(self, on_first: Callable[[], object], *, patience: timedelta) -> None:
        self.received: int | None = None
        self._on_first = on_first
        self._patience_s = patience.total_seconds()
        self._bell = -1

    @contextmanager
    def handled(self, *, ignore_interrupts: bool = False) -> Generator[Signals]:
        """Handle both signals inside the block. `ignore_interrupts` leaves Ctrl-C to the process above this one."""
        hear, self._bell = os.pipe()
        # started now: a signal handler that starts a thread could wait for a lock of the code it interrupted
        guard = threading.Thread(target=self._guard, args=[hear], name="signals", daemon=True)
        guard.start()
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            ignored = ignore_interrupts and number == signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ignored else self._handle)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._bell)
            guard.join()
            os.close(hear)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            leave(128 + number)
        self.received = number
        os.write(self._bell, b"!")
        self._on_first()

    def _guard(self, hear: int) -> None:
        """End the process when a stop that was asked for has not ended in time; return when the block is left."""
        if os.read(hear, 1) and not select.select([hear], [], [], self._patience_s)[0]:
            leave(128 + (self.received or signal.SIGTERM))


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
