"""Bell: tells other processes, by NOTIFY, that there is something to look at.

NOTIFY takes a lock of the whole server at commit, so it is never sent in a transaction of the application: rings are
gathered and sent by themselves: at once as long as they are few, twenty a second when they are many.

Invariant: ringing neither fails nor waits; a ring that could not be sent is forgotten, because polling finds the work
as well. Deliberately absent: hearing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from chimpbase._core.errors import ChimpbaseError
from chimpbase._pg.db import Queryable
from chimpbase._pg.listener import NOTIFY

_log = logging.getLogger("chimpbase.pg.bell")

_LONGEST_PAYLOAD: Final = 7999  # bytes, PostgreSQL's limit
_LOG_EVERY_S: Final = 5.0
SEPARATOR: Final = ","


class Bell:
    """Rings on one channel; use it in the event loop of its `db`."""

    def __init__(
        self, db: Queryable, channel: str, *, rest: timedelta = timedelta(milliseconds=50), quick: int = 50
    ) -> None:
        """`db` should be a `Db`, whose statements are transactions of their own; `rest` is the time between two.

        Before that, `quick` rings may follow each other at once, and as many are earned again each second: whoever is
        rung for more often than that is awake.
        """
        self._db = db
        self._channel = channel
        self._rest_s = rest.total_seconds()
        self._pending: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._stopping = asyncio.Event()
        self._logged_at_s = -_LOG_EVERY_S
        self._quick = self._credit = float(quick)
        self._credited_at_s = 0.0

    def ring(self, payload: str) -> None:
        """Announce `payload`, a short word without a comma, soon. Equal words that wait together are sent once."""
        if self._closed:
            return
        self._pending.add(payload)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all(), name=f"bell {self._channel}")

    async def close(self) -> None:
        """Send what waits and ring no more. Takes a statement's budget at most."""
        self._closed = True
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _send_all(self) -> None:
        try:
            while self._pending:
                await self._send(self._take())
                if not self._is_quick():
                    await self._rest()
        finally:
            self._task = None

    def _is_quick(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        self._credit = min(self._quick, self._credit + (now_s - self._credited_at_s) * self._quick)
        self._credited_at_s = now_s
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._rest_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _take(self) -> set[str]:
        taken, self._pending = self._pending, set()
        return taken

    async def _send(self, words: set[str]) -> None:
        for payload in packed(words):
            try:
                await self._db.execute(NOTIFY, self._channel, payload)
            except ChimpbaseError as error:
                self._report(error)
                return

    def _report(self, error: ChimpbaseError) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._logged_at_s >= _LOG_EVERY_S:
            self._logged_at_s = now_s
            _log.warning("Nothing could be announced on %r, work is found by polling: %s", self._channel, error)


def packed(words: Iterable[str]) -> Iterator[str]:
    """Payloads that hold the words, each within PostgreSQL's limit. A word that is longer by itself is left out."""
    payload: list[str] = []
    size = 0
    for word in sorted(words):
        length = len(word.encode())
        if length > _LONGEST_PAYLOAD:
            continue
        if payload and size + 1 + length > _LONGEST_PAYLOAD:
            yield SEPARATOR.join(payload)
            payload, size = [], 0
        size += length + (1 if payload else 0)
        payload.append(word)
    if payload:
        yield SEPARATOR.join(payload)
