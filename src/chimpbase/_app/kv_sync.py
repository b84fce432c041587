"""SyncKv: the blocking face of `KvClient`, whose verbs mean the same."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from chimpbase._app.kv_client import KvClient
from chimpbase._app.kv_lock import SyncLockBlock
from chimpbase._app.kv_token import KV
from chimpbase._app.kv_values import Allowance, Entry
from chimpbase._app.waiter import Waiter

T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D")


class SyncKv(Generic[T]):
    """The blocking face of `KvClient`, whose verbs mean the same."""

    def __init__(self, client: Callable[[], KvClient[T]], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def __call__(self, namespace: KV[U]) -> SyncKv[U]: ...
    @overload
    def __call__(self, namespace: str) -> SyncKv[Any]: ...
    def __call__(self, namespace: Any) -> SyncKv[Any]:
        client = self._client()(namespace)
        return SyncKv(lambda: client, self._wait)

    @overload
    def get(self, key: str) -> T | None: ...
    @overload
    def get(self, key: str, default: D) -> T | D: ...
    def get(self, key: str, default: Any = None) -> Any:
        return self._wait(self._client().get(key, default))

    def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        return self._wait(self._client().get_many(keys))

    def entry(self, key: str) -> Entry[T] | None:
        return self._wait(self._client().entry(key))

    @overload
    def set(self, key: str, value: T, *, ttl: timedelta | float | None = None) -> int: ...
    @overload
    def set(
        self,
        key: str,
        value: T,
        *,
        ttl: timedelta | float | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> int | None: ...
    def set(self, key: str, value: T, **options: Any) -> int | None:
        return self._wait(self._client().set(key, value, **options))

    def set_many(self, values: Mapping[str, T], *, ttl: timedelta | float | None = None) -> None:
        self._wait(self._client().set_many(values, ttl=ttl))

    def incr(self, key: str, by: int = 1, *, ttl: timedelta | float | None = None) -> int:
        return self._wait(self._client().incr(key, by, ttl=ttl))

    def delete(self, key: str, *, if_version: int | None = None) -> bool:
        return self._wait(self._client().delete(key, if_version=if_version))

    def clear(self, prefix: str = "") -> int:
        return self._wait(self._client().clear(prefix))

    def list(self, prefix: str = "", *, after: str = "", limit: int = 100) -> builtins.list[str]:
        return self._wait(self._client().list(prefix, after=after, limit=limit))

    def entries(self, prefix: str = "", *, after: str = "", limit: int = 100) -> builtins.list[Entry[T]]:
        return self._wait(self._client().entries(prefix, after=after, limit=limit))

    def namespaces(self) -> builtins.list[str]:
        return self._wait(self._client().namespaces())

    def lock(
        self, name: str, *, ttl: timedelta | float = timedelta(seconds=30), wait: timedelta | float | None = None
    ) -> SyncLockBlock:
        client = self._client()
        return SyncLockBlock(client.holding(name, ttl=ttl, wait=wait), client.frame, self._wait)

    def allow(self, key: str, *, limit: int, per: timedelta | float = timedelta(seconds=1), cost: int = 1) -> Allowance:
        return self._wait(self._client().allow(key, limit=limit, per=per, cost=cost))
