"""KvLanes: keys and values outside of any transaction, in commits shared with others.

What many callers set, or get, at one moment goes to the database in one statement. Of several sets of one key in a
batch the one that was asked for last is written; the others were overwritten before anybody could see them, and are
given versions that nothing has.
"""

from __future__ import annotations

from chimpbase._pg.coalescer import Coalescer
from chimpbase._pg.db import Db
from chimpbase._store import kv
from chimpbase._store.kv import NewPair

_BATCH = 512
#: Longer values travel alone, so that a batch has a bounded size.
LONGEST_SHARED = 32 * 1024


class KvLanes:
    """Used in one event loop. `db` has connections whose plans are pinned."""

    def __init__(self, db: Db) -> None:
        self.db = db
        self._gets: dict[bool, Coalescer[tuple[str, str], str | None]] = {
            cached: Coalescer(_Getting(db, cached), max_batch=_BATCH, lanes=2) for cached in (False, True)
        }
        self._sets: dict[bool, Coalescer[NewPair, int]] = {
            # one lane: two batches with the same hot keys would only wait for each other
            cached: Coalescer(_Setting(db, cached), max_batch=_BATCH)
            for cached in (False, True)
        }

    async def get(self, *, cached: bool, namespace: str, key: str) -> str | None:
        """The value (JSON text), or None."""
        return await self._gets[cached].submit((namespace, key))

    async def set(self, *, cached: bool, pair: NewPair) -> int:
        """Store a pair; its version. It is durable when this returns, unless `cached`."""
        if len(pair.value) > LONGEST_SHARED:
            (version,) = await _Setting(self.db, cached)([pair])
            return version
        return await self._sets[cached].submit(pair)


class _Getting:
    def __init__(self, db: Db, cached: bool) -> None:
        self._db, self._cached = db, cached

    async def __call__(self, keys: list[tuple[str, str]]) -> list[str | None]:
        return await kv.get(self._db, cached=self._cached, keys=keys)


class _Setting:
    def __init__(self, db: Db, cached: bool) -> None:
        self._db, self._cached = db, cached

    async def __call__(self, pairs: list[NewPair]) -> list[int]:
        last = {(pair.namespace, pair.key): pair for pair in pairs}
        written = [last[place] for place in sorted(last, key=_in_bytes)]
        overwritten = len(pairs) - len(written)
        spare = await kv.draw(self._db, cached=self._cached, count=overwritten) if overwritten else []
        versions = dict(zip(map(id, written), await kv.set(self._db, cached=self._cached, pairs=written), strict=True))
        # the objects tell a pair from its equal that was overwritten
        return [versions[id(pair)] if id(pair) in versions else spare.pop() for pair in pairs]


def _in_bytes(place: tuple[str, str]) -> tuple[bytes, bytes]:
    return place[0].encode(), place[1].encode()
