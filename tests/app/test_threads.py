"""The threads of plain handlers: as many as allowed, reused, and none of them outlives the program."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from chimpbase._app.threads import Threads


def test_no_more_threads_than_allowed_and_each_is_reused() -> None:
    threads = Threads(2, name="few")
    names: set[str] = set()
    together = threading.Barrier(2)

    def work(n: int) -> int:
        names.add(threading.current_thread().name)
        together.wait(5)
        return n

    futures = [threads.submit(work, n) for n in range(20)]
    assert [future.result(5) for future in futures] == list(range(20))
    assert names == {"few-1", "few-2"}
    assert all(thread.daemon for thread in threading.enumerate() if thread.name in names)
    threads.shutdown()


def test_one_after_another_needs_one_thread() -> None:
    threads = Threads(8, name="one")
    for _ in range(50):
        assert threads.submit(lambda: 1).result(5) == 1
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("one-")]) <= 2
    threads.shutdown()


def test_what_a_function_raises_comes_out_of_its_future() -> None:
    threads = Threads(1, name="raising")
    for error in (ValueError, SystemExit, KeyboardInterrupt):

        def fail(error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            threads.submit(fail).result(5)
    assert threads.submit(lambda: "on").result(5) == "on"
    threads.shutdown()


def test_a_shutdown_waits_for_nothing_and_cancels_what_has_not_begun() -> None:
    threads = Threads(1, name="hung")
    begun, release = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(10)

    running = threads.submit(hang)
    waiting = threads.submit(lambda: None)
    assert begun.wait(5)
    threads.shutdown()
    with pytest.raises(CancelledError):
        waiting.result(5)
    with pytest.raises(RuntimeError, match="stopped"):
        threads.submit(lambda: None)
    release.set()
    assert running.result(5) is None
