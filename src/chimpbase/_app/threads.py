"""Threads: where plain handlers run. They end with the program, also when what runs in them does not.

The standard pool of threads is waited for at the end of the program, so one handler that hangs would keep a stopped
program from exiting for ever. What still runs after the grace has lost its lease and its transaction anyway.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_Work = tuple["Future[Any]", Callable[[], Any]]


class Threads(Executor):
    """At most `size` threads, each made when it is first needed."""

    def __init__(self, size: int, *, name: str) -> None:
        self._size, self._name = size, name
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._made = 0
        self._idle = threading.Semaphore(0)
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a function as soon as a thread is free."""
        with self._lock:
            if self._closed:
                raise RuntimeError("The app has stopped; nothing more can be run in its threads.")
            future: Future[R] = Future()
            self._work.put((future, lambda: fn(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._made < self._size:
                self._made += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._made}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end after what they run. They are never waited for; what has not begun is cancelled."""
        with self._lock:
            self._closed = True
            while True:
                try:
                    waiting = self._work.get_nowait()
                except queue.Empty:
                    break
                if waiting is not None:
                    waiting[0].cancel()
            for _ in range(self._made):
                self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                _settle(future, call)
            del work, future, call  # or an idle thread would keep the last payload alive
            self._idle.release()


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
