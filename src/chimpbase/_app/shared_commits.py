"""SharedCommits: events published and entries appended outside of any transaction, in commits shared with others.

What many callers publish, or append, at one moment goes to the database in one statement, in the order in which they
asked. Invariant: each is stored when its call returns, and none because of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chimpbase._app.kv_lanes import KvLanes
from chimpbase._core.values import QueueId
from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.db import Db
from chimpbase._store import events, streams
from chimpbase._store.events import NewEvent
from chimpbase._store.streams import NewEntry

_BATCH = 256
#: Longer payloads travel alone, so that a batch has a bounded size.
_LONGEST = 32 * 1024


class SharedCommits:
    """Used in one event loop. `ready` and `appended` hear of queues and streams that got something.

    `keys` are the keys and values that are set and read outside of any transaction; `lanes` has pinned plans.
    """

    def __init__(
        self,
        db: Db,
        lanes: Db,
        *,
        ready: Callable[[Iterable[QueueId]], None],
        appended: Callable[[Iterable[int]], None],
    ) -> None:
        self.keys = KvLanes(lanes)
        self._db, self._ready, self._appended = db, ready, appended
        self._events: Coalescer[NewEvent, int] = Coalescer(self._publish_together, max_batch=_BATCH)
        self._entries: Coalescer[NewEntry, int] = Coalescer(self._append_together, max_batch=_BATCH)

    async def publish(self, event: NewEvent) -> int:
        """Store an event and its deliveries; its id."""
        if len(event.payload) > _LONGEST:
            (id,) = await self._publish_together([event])
            return id
        return await self._events.submit(event)

    async def append(self, entry: NewEntry) -> int:
        """Store an entry of a stream, whatever its version; its id."""
        if len(entry.payload) > _LONGEST:
            (id,) = await self._append_together([entry])
            return id
        return await self._entries.submit(entry)

    async def _publish_together(self, new: list[NewEvent]) -> list[int]:
        async with self._db.acquire() as connection:
            published = await events.publish_each(connection, new)
        self._ready({queue for _, queues in published for queue in queues})
        return [id for id, _ in published]

    async def _append_together(self, new: list[NewEntry]) -> list[int]:
        async with self._db.acquire() as connection:
            appended = await streams.append_each(connection, new)
        self._appended({stream for _, stream in appended})
        return [id for id, _ in appended]
