"""The blocking faces of `Collections` and `CollectionClient`, whose verbs mean the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

from chimpbase._app.collection_client import CollectionClient, Collections, Where
from chimpbase._app.collection_indexes import IndexState
from chimpbase._app.collection_token import Collection
from chimpbase._app.collection_values import Document, Page
from chimpbase._app.waiter import Waiter

T = TypeVar("T")


class SyncCollections:
    """The blocking face of `Collections`."""

    def __init__(self, client: Callable[[], Collections], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    @overload
    def __call__(self, collection: Collection[T]) -> SyncCollection[T]: ...
    @overload
    def __call__(self, collection: str) -> SyncCollection[Any]: ...
    def __call__(self, collection: Any) -> SyncCollection[Any]:
        return SyncCollection(self._client()(collection), self._wait)

    def names(self) -> list[str]:
        return self._wait(self._client().names())


class SyncCollection(Generic[T]):
    """The blocking face of `CollectionClient`."""

    def __init__(self, client: CollectionClient[T], wait: Waiter) -> None:
        self._client, self._wait = client, wait

    def insert(self, value: T, *, id: str | None = None) -> Document[T]:
        return self._wait(self._client.insert(value, id=id))

    def insert_many(self, values: Iterable[T]) -> list[str]:
        return self._wait(self._client.insert_many(values))

    def put(self, id: str, value: T, *, if_version: int | None = None) -> Document[T]:
        return self._wait(self._client.put(id, value, if_version=if_version))

    def get(self, id: str) -> Document[T] | None:
        return self._wait(self._client.get(id))

    @overload
    def find(
        self,
        where: Where | None = None,
        *,
        search: str | None = None,
        sort: str | Sequence[str] = (),
        fields: None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[T]: ...
    @overload
    def find(
        self,
        where: Where | None = None,
        *,
        search: str | None = None,
        sort: str | Sequence[str] = (),
        fields: Sequence[str],
        limit: int = 100,
        after: str | None = None,
    ) -> Page[dict[str, Any]]: ...
    def find(self, where: Where | None = None, **options: Any) -> Page[Any]:
        client: Any = self._client
        return self._wait(client.find(where, **options))

    def find_one(
        self, where: Where | None = None, *, search: str | None = None, sort: str | Sequence[str] = ()
    ) -> Document[T] | None:
        return self._wait(self._client.find_one(where, search=search, sort=sort))

    def count(self, where: Where | None = None, *, search: str | None = None) -> int:
        return self._wait(self._client.count(where, search=search))

    def update(self, where: Where, **changes: Any) -> int:
        client: Any = self._client
        return self._wait(client.update(where, **changes))

    def delete(self, where: Where, *, if_version: int | None = None) -> int:
        return self._wait(self._client.delete(where, if_version=if_version))

    def indexes(self) -> list[IndexState]:
        return self._wait(self._client.indexes())

    def create_indexes(self) -> list[str]:
        return self._wait(self._client.create_indexes())

    def drop_index(self, name: str) -> bool:
        return self._wait(self._client.drop_index(name))
