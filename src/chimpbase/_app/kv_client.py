"""`ctx.kv`: keys and JSON values, in namespaces. Each verb is one statement of the unit of work.

Outside of a transaction single gets and sets of many callers share a statement, see `KvLanes`. Locks and rate limits
act at once, beside any transaction: they are for others to see.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from chimpbase._app.kv_lock import Holding, LockBlock
from chimpbase._app.kv_token import KV, SHORTEST_TTL
from chimpbase._app.kv_values import Allowance, Entry, Space, allowance, shape
from chimpbase._app.unit import Frame
from chimpbase._core.durations import seconds
from chimpbase._core.errors import PayloadError, UsageError
from chimpbase._core.names import after_prefix, check_key, check_name, check_prefix
from chimpbase._core.numbers import check_whole
from chimpbase._store import kv
from chimpbase._store.kv import KeyRange, NewPair

if TYPE_CHECKING:
    from chimpbase._app.stage import Stage

T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D")

_MOST_KEYS = 10_000
_LARGEST = 2**63 - 1
_RANDOM = Random()


class KvClient(Generic[T]):
    """The keys of one namespace in the transaction of this call: 1 to 512 bytes each. Expired ones are absent.

    `ctx.kv` itself is a namespace without a name, of any JSON values; `ctx.kv(quotes)` is that of a token.
    """

    def __init__(self, stage: Stage, frame: Frame, space: Space[T]) -> None:
        self._stage, self._frame, self._space = stage, frame, space

    @overload
    def __call__(self, namespace: KV[U]) -> KvClient[U]: ...
    @overload
    def __call__(self, namespace: str) -> KvClient[Any]: ...
    def __call__(self, namespace: Any) -> KvClient[Any]:
        """The keys of a namespace. A name that no registered token has is a namespace of any values.

        Raises:
            UsageError: it cannot be a name.
        """
        token: Any = namespace
        if not isinstance(namespace, KV):
            token = self._stage.registry.tokens("namespace").get(check_name("namespace", namespace))
            token = token or KV(namespace)
        return KvClient(self._stage, self._frame, shape(token, named=token is not namespace))

    @overload
    async def get(self, key: str) -> T | None: ...
    @overload
    async def get(self, key: str, default: D) -> T | D: ...
    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` when there is none or it has expired.

        Raises:
            PayloadError: the key cannot be one, or what is stored does not fit the namespace's type.
        """
        check_key("key", key)
        space, shared = self._space, self._stage.shared
        if shared is not None and not self._frame.unit.transactional:
            text = await shared.keys.get(cached=space.place.cached, namespace=space.place.namespace, key=key)
        else:
            async with self._frame.statement() as connection:
                (text,) = await kv.get(connection, cached=space.place.cached, keys=[(space.place.namespace, key)])
        return default if text is None else space.decode(key, text)

    async def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        """The values of those keys that are there, in one statement; at most 10,000 keys.

        Raises:
            PayloadError: a key cannot be one, or a value does not fit the namespace's type.
            UsageError: there are too many.
        """
        wanted = [check_key("key", key) for key in _bounded(keys)]
        space = self._space
        if not wanted:
            return {}
        async with self._frame.statement() as connection:
            texts = await kv.get(
                connection, cached=space.place.cached, keys=[(space.place.namespace, key) for key in wanted]
            )
        return {key: space.decode(key, text) for key, text in zip(wanted, texts, strict=True) if text is not None}

    async def entry(self, key: str) -> Entry[T] | None:
        """The value with its version and expiry, or None.

        Raises:
            PayloadError: as `get`.
        """
        check_key("key", key)
        async with self._frame.statement() as connection:
            found = await kv.find(connection, place=self._space.place, key=key)
        return None if found is None else self._space.entry(found)

    @overload
    async def set(self, key: str, value: T, *, ttl: timedelta | float | None = None) -> int: ...
    @overload
    async def set(
        self,
        key: str,
        value: T,
        *,
        ttl: timedelta | float | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> int | None: ...
    async def set(
        self,
        key: str,
        value: T,
        *,
        ttl: timedelta | float | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> int | None:
        """Store a value for `ttl` (seconds if a number) by the database's clock; its version, which no other set has.

        Every set replaces the time to live; without one it is the namespace's, or for ever. With `if_absent` nothing
        is stored where there is a value, with `if_version` only over the value of that version: then the answer is
        None when nothing was stored.

        Raises:
            PayloadError: the key or the value cannot be stored. No SQL was sent.
        """
        check_key("key", key)
        space = self._space
        pair = NewPair(space.place.namespace, key, space.encode(key, value), self._lasting(ttl))
        if if_absent or if_version is not None:
            return await self._set_if(pair, if_absent, if_version)
        if self._stage.shared is not None and not self._frame.unit.transactional:
            return await self._stage.shared.keys.set(cached=space.place.cached, pair=pair)
        async with self._frame.statement() as connection:
            (version,) = await kv.set(connection, cached=space.place.cached, pairs=[pair])
        return version

    async def set_many(self, values: Mapping[str, T], *, ttl: timedelta | float | None = None) -> None:
        """Store many values in one statement, all or none of them; at most 10,000.

        Raises:
            PayloadError: a key or a value cannot be stored. No SQL was sent.
            UsageError: there are too many.
        """
        lasts, space = self._lasting(ttl), self._space
        if not isinstance(cast("object", values), Mapping):
            raise UsageError(f"values must be a dict of keys and values, not {values!r:.40}.")
        pairs = [
            NewPair(space.place.namespace, check_key("key", key), space.encode(key, values[key]), lasts)
            for key in _bounded(values)
        ]
        pairs.sort(key=lambda pair: pair.key.encode())  # so that two of these never wait for each other in a circle
        if pairs:
            async with self._frame.statement() as connection:
                await kv.set(connection, cached=space.place.cached, pairs=pairs)

    async def incr(self, key: str, by: int = 1, *, ttl: timedelta | float | None = None) -> int:
        """Add to a whole number; the sum. An absent key counts as 0 and gets the `ttl`, another keeps its own.

        Raises:
            PayloadError: the key cannot be one, the value is no whole number, or the sum does not fit 64 bits.
        """
        check_key("key", key)
        check_whole(by, subject="by", minimum=-_LARGEST, maximum=_LARGEST)
        space = self._space
        space.encode(key, by)
        async with self._frame.statement() as connection:
            total = await kv.incr(connection, place=space.place, key=key, by=by, ttl=self._lasting(ttl))
        if total is None:
            raise PayloadError(
                f"is no whole number to which {by} could be added within 64 bits", subject=space.subject(key)
            )
        return total

    async def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Remove a key, with `if_version` only when it has that version; whether it was there.

        Raises:
            PayloadError: the key cannot be one.
        """
        check_key("key", key)
        if if_version is not None:
            check_whole(if_version, subject="if_version", minimum=0, maximum=_LARGEST)
        async with self._frame.statement() as connection:
            return await kv.delete(connection, place=self._space.place, key=key, version=if_version)

    async def clear(self, prefix: str = "") -> int:
        """Remove every key that begins so, taken literally; how many there were.

        Raises:
            PayloadError: no key can begin so.
        """
        async with self._frame.statement() as connection:
            return await kv.clear(connection, place=self._space.place, keys=_range(prefix))

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 100) -> builtins.list[str]:
        """The keys that begin so, taken literally, in the order of their bytes: at most `limit` (1 to 10,000).

        The next page comes with `after=` the last key of this one.

        Raises:
            PayloadError: no key can begin so.
        """
        return [pair.key for pair in await self._pairs(prefix, after, limit, values=False)]

    async def entries(self, prefix: str = "", *, after: str = "", limit: int = 100) -> builtins.list[Entry[T]]:
        """As `list`, with values, versions and expiry.

        Raises:
            PayloadError: no key can begin so, or a value does not fit the namespace's type.
        """
        return [self._space.entry(pair) for pair in await self._pairs(prefix, after, limit, values=True)]

    async def namespaces(self) -> builtins.list[str]:
        """Every namespace that holds a key, whether expired or not."""
        async with self._frame.statement() as connection:
            found = await kv.list_namespaces(connection)
        # those of locks and limits are ours
        return sorted({place.namespace for place in found if place.namespace and not place.namespace.endswith(")")})

    def lock(
        self, name: str, *, ttl: timedelta | float = timedelta(seconds=30), wait: timedelta | float | None = None
    ) -> LockBlock:
        """A lock that one holder has at a time: `async with ctx.kv.lock("nightly") as lock:`.

        It is renewed while it is held, and free `ttl` after its holder died. In a transaction it is held until that
        ends, and the commit fails when the lock was lost; elsewhere losing it cancels the block. `lock.fence` grows
        with every holder. `wait` is how long to wait for it: for ever by default, not at all with 0.

        Raises:
            Conflict: somebody else held it all the time.
            LockLost: it ran out while it was held.
            UsageError: the transaction is not ours to end, in a bound ctx.
        """
        return LockBlock(self.holding(name, ttl=ttl, wait=wait), self._frame)

    async def allow(
        self, key: str, *, limit: int, per: timedelta | float = timedelta(seconds=1), cost: int = 1
    ) -> Allowance:
        """Whether `key` may do something now that it may do `limit` times `per` time, in bursts of up to `limit`.

        The answer is true or false, and tells when to come again. What is allowed is spent at once, whatever becomes
        of the transaction; in a bound ctx it is part of it. A crash of the server forgets what was spent.

        Raises:
            PayloadError: the key cannot be one.
            UsageError: a limit that allows nothing, or a cost above it.
        """
        check_key("key", key)
        check_whole(limit, subject="limit", minimum=1, maximum=1_000_000_000)
        check_whole(cost, subject="cost", minimum=1, maximum=limit)
        window = seconds(per, subject="per", minimum=timedelta(milliseconds=1))
        namespace, spent = f"{self._space.place.namespace}(limit)", window * cost / limit
        if self._stage.shared is not None:
            allowed, full_in_s = await kv.spend(
                self._stage.shared.keys.db, namespace=namespace, key=key, cost=spent, per=window
            )
        else:
            async with self._frame.statement() as connection:
                allowed, full_in_s = await kv.spend(connection, namespace=namespace, key=key, cost=spent, per=window)
        return allowance(allowed, full_in_s, limit=limit, window=window, spent=spent)

    @property
    def frame(self) -> Frame:
        """The level of the transaction that its verbs act in."""
        return self._frame

    def holding(self, name: str, *, ttl: timedelta | float, wait: timedelta | float | None) -> Holding:
        """What a lock block enters; for `lock` and its blocking face."""
        check_key("lock", name)
        shared = self._stage.shared
        if shared is None:
            raise UsageError(
                f"{self._frame.unit.title} cannot hold lock {name!r}: it does not know when your transaction ends. "
                "Take it with app.ctx.kv.lock around your transaction."
            )
        return Holding(
            shared.keys.db,
            namespace=f"{self._space.place.namespace}(lock)",
            name=name,
            ttl=seconds(ttl, subject="ttl", minimum=timedelta(milliseconds=100)),
            wait=None if wait is None else seconds(wait, subject="wait"),
            random=_RANDOM,
        )

    async def _set_if(self, pair: NewPair, if_absent: bool, if_version: int | None) -> int | None:
        cached = self._space.place.cached
        if if_version is None:
            async with self._frame.statement() as connection:
                return await kv.add(connection, cached=cached, pair=pair)
        if if_absent:
            raise UsageError("A set is either if_absent or if_version: what is absent has no version.")
        check_whole(if_version, subject="if_version", minimum=0, maximum=_LARGEST)
        async with self._frame.statement() as connection:
            return await kv.swap(connection, cached=cached, pair=pair, version=if_version)

    async def _pairs(self, prefix: str, after: str, limit: int, *, values: bool) -> builtins.list[kv.Pair]:
        check_whole(limit, subject="limit", minimum=1, maximum=_MOST_KEYS)
        check_prefix("after", after)
        async with self._frame.statement() as connection:
            return await kv.list_pairs(
                connection,
                place=self._space.place,
                keys=_range(prefix),
                after=after,
                max_pairs=limit,
                values=values,
            )

    def _lasting(self, ttl: timedelta | float | None) -> timedelta | None:
        return self._space.ttl if ttl is None else seconds(ttl, subject="ttl", minimum=SHORTEST_TTL)


def _range(prefix: str) -> KeyRange:
    check_prefix("prefix", prefix)
    return KeyRange(prefix, after_prefix(prefix))


def _bounded(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str | bytes):
        raise UsageError(f"keys must be several texts, not the one text {keys!r:.40}. Pass a list.")
    try:
        found = list(dict.fromkeys(keys))
    except TypeError:  # it cannot be gone through, or holds what cannot be a key
        raise UsageError(f"keys must be several texts, not {keys!r:.40}. Pass a list.") from None
    if len(found) > _MOST_KEYS:
        raise UsageError(f"{len(found)} keys are too many for one call; the limit is {_MOST_KEYS:,}. Make several.")
    return found
