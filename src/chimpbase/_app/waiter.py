"""Waiter: how a plain function waits for a verb of ctx. From a thread beside the event loop, or right where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from chimpbase._core.errors import UsageError

Waiter = Callable[[Coroutine[Any, Any, Any]], Any]


def on_loop(loop: asyncio.AbstractEventLoop) -> Waiter:
    """Run a verb on the event loop, from another thread, and block until it is done."""
    return lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()


def in_place(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a verb that never suspends, because its connection is a synchronous one. Needs no event loop.

    Raises:
        UsageError: it suspends all the same.
    """
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise UsageError(
        "This ctx is bound to a synchronous connection, so an async action called with it may await nothing but ctx. "
        "Bind an asynchronous connection, or make the call in a job."
    )
