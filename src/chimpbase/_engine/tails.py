"""Who follows streams in this process, and is to be woken when something was appended.

A wake-up is only a hint: whoever is woken reads, and finds what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager


class Tails:
    """Events of those who listen. One that is set tells of any stream: a look at the wrong one costs one statement."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()

    @contextmanager
    def listen(self) -> Generator[asyncio.Event]:
        """An event that is set whenever something was appended."""
        news = asyncio.Event()
        self._listeners.add(news)
        try:
            yield news
        finally:
            self._listeners.discard(news)

    def appended(self, streams: Iterable[int]) -> None:
        """Something was appended to these streams, and is committed."""
        if any(True for _ in streams):
            for news in self._listeners:
                news.set()
