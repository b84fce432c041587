"""Hears what was broadcast, in every process that wants some of it, and hands it to its handlers.

    look: what was committed since the last look ──► each hearer's backlog ──► its handler, one at a time

Invariant: a hearer gets what was committed while it stood, each once and in order, or is told that there is a gap. A
look is due at every announcement and every `poll_s`; what an announcement that was lost spoke of is found by the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from chimpbase._engine.service import Service
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._store import broadcasts
from chimpbase._store.broadcasts import Broadcast, Heard

#: Broadcasts are kept for this long at least; who did not look for longer may have missed some.
KEEP_S = 60.0
_MOST = 10_000
_BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """A handler of broadcasts: `topics` is the regular expression of those it wants."""

    title: str
    topics: str
    wants: Callable[[str], bool]
    handle: Callable[[Broadcast], Awaitable[None]]
    on_gap: Callable[[], Awaitable[None]]


class Hearer(Service):
    """One handler and its backlog. It runs beside the others, so that none waits for a slow one."""

    def __init__(self, hearing: Hearing, *, random: Callable[[], float], most: int = _MOST) -> None:
        super().__init__(random=random)
        self._hearing, self._most = hearing, most
        self._backlog: deque[Broadcast | None] = deque()

    def put(self, broadcast: Broadcast) -> None:
        """It was broadcast: handle it, if it is wanted. Of more than can be kept nothing is: there is a gap."""
        if not self._hearing.wants(broadcast.topic):
            return
        if len(self._backlog) >= self._most:
            self.miss()
        self._backlog.append(broadcast)
        self.wake()

    def miss(self) -> None:
        """Something was missed, which makes what still waits worthless."""
        self._backlog.clear()
        self._backlog.append(None)
        self.wake()

    @property
    def has_more(self) -> bool:
        """Whether something waits."""
        return bool(self._backlog)

    async def tick(self) -> float | None:
        try:
            return 0 if await self.take() else None
        except Exception as error:
            self._log.error("%s failed; a broadcast is not repeated", self._hearing.title, exc_info=error)
            return 0

    async def take(self) -> bool:
        """Handle what has waited longest, if anything does."""
        if not self._backlog:
            return False
        one = self._backlog.popleft()
        if one is not None:
            await self._hearing.handle(one)
            return True
        self._log.warning("%s may have missed broadcasts", self._hearing.title)
        await self._hearing.on_gap()
        return True


class Receiver(Service):
    """Looks for what was broadcast, and tells the hearers."""

    def __init__(
        self,
        db: Db,
        hearings: Sequence[Hearing],
        *,
        poll_s: float,
        random: Callable[[], float],
        keep_s: float = KEEP_S,
    ) -> None:
        super().__init__(random=random)
        self._db, self._poll_s, self._keep_s = db, poll_s, keep_s
        self._wanted = "|".join(sorted({one.topics for one in hearings}))
        self.hearers = [Hearer(one, random=random) for one in hearings]
        self._last: Heard | None = None

    async def begin(self) -> None:
        """What is committed from now on is heard."""
        await self.tick()

    async def tick(self) -> float | None:
        heard = await self._look()
        last, self._last = self._last, heard
        too_many = len(heard.broadcasts) > _MOST
        if last is not None and (too_many or self._is_gap(last, heard)):
            for hearer in self.hearers:
                hearer.miss()
        for one in () if too_many else heard.broadcasts:
            for hearer in self.hearers:
                hearer.put(one)
        return self._poll_s * (0.9 + self._random() / 10)

    async def stop(self, *, patience_s: float = 2.0) -> None:
        """Stop, and let the handlers that run end."""
        await super().stop(patience_s=patience_s)
        for hearer in self.hearers:
            await hearer.stop(patience_s=patience_s)

    def start(self) -> None:
        """Begin to look, and to handle."""
        for hearer in self.hearers:
            hearer.start()
        super().start()

    async def _look(self) -> Heard:
        after = self._last.upto if self._last is not None else None
        async with self._db.acquire() as connection:
            heard = await self._hear(connection, after)
            if heard.era is None:
                await broadcasts.begin_era(connection)
                heard = await self._hear(connection, after)
        return heard

    async def _hear(self, connection: Connection, after: str | None) -> Heard:
        return await broadcasts.hear(connection, after=after, wanted=self._wanted, max_broadcasts=_MOST + 1)

    def _is_gap(self, last: Heard, heard: Heard) -> bool:
        return heard.era != last.era or heard.heard_at_s - last.heard_at_s > self._keep_s


class BroadcastKeeper(Service):
    """Removes broadcasts that everybody alive has heard: those that a snapshot of a minute ago showed."""

    def __init__(self, db: Db, *, random: Callable[[], float], keep_s: float = KEEP_S) -> None:
        super().__init__(random=random)
        self._db, self._keep_s = db, keep_s
        self._seen: str | None = None

    async def tick(self) -> float | None:
        async with self._db.acquire() as connection:
            if self._seen is not None:
                pruned = await broadcasts.prune(connection, seen=self._seen, max_broadcasts=_BATCH)
                if pruned == _BATCH:
                    return 0
            self._seen = await broadcasts.snapshot(connection)
        return self._keep_s
