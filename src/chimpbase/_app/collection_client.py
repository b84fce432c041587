"""`ctx.collection`: JSON documents, found and changed in SQL. Each verb is one statement of the unit of work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

import msgspec

from chimpbase._app.collection_indexes import IndexState, create_indexes, drop_index, states
from chimpbase._app.collection_token import Collection, index_name
from chimpbase._app.collection_values import (
    Document,
    Page,
    Shape,
    cursor,
    listed,
    parse_changes,
    parse_cursor,
    parse_fields,
    parse_sort,
)
from chimpbase._app.unit import Frame
from chimpbase._core.codec import codec_for
from chimpbase._core.errors import Conflict, DatabaseError, NotUnique, PayloadError, UniqueViolation, UsageError
from chimpbase._core.filters import EVERYTHING, Test, parse_filter
from chimpbase._core.names import check_key, check_name
from chimpbase._core.numbers import check_whole
from chimpbase._pg.db import Db
from chimpbase._store import documents
from chimpbase._store.documents import Choice, NewDocument, Order, Words

if TYPE_CHECKING:
    from chimpbase._app.stage import Stage

T = TypeVar("T")
#: Which documents: a filter, or the id of one.
Where: TypeAlias = Mapping[str, Any] | str

_MOST = 1000
_LARGEST = 2**63 - 1


class Collections:
    """`ctx.collection(customers)`, or by name. A name that no registered token has is one of any JSON objects."""

    def __init__(self, stage: Stage, frame: Frame) -> None:
        self._stage, self._frame = stage, frame

    @overload
    def __call__(self, collection: Collection[T]) -> CollectionClient[T]: ...
    @overload
    def __call__(self, collection: str) -> CollectionClient[Any]: ...
    def __call__(self, collection: Any) -> CollectionClient[Any]:
        """The documents of a collection.

        Raises:
            UsageError: it cannot be a name.
        """
        token: Any = collection
        if not isinstance(collection, Collection):
            token = self._stage.registry.tokens("collection").get(check_name("collection", collection))
            token = token or Collection(collection)
        return CollectionClient(self._stage, self._frame, Shape(token, named=token is not collection))

    async def names(self) -> list[str]:
        """Every collection that holds a document."""
        async with self._frame.statement() as connection:
            return await documents.list_collections(connection)


class CollectionClient(Generic[T]):
    """The documents of one collection, in the transaction of this call.

    A filter says which documents: `{"city": "Lisbon", "age": {"gte": 18}}`. The operators are eq, ne, gt, gte, lt,
    lte, in, nin, exists, contains and prefix, and `and`, `or` and `not` combine filters; `address.city` is a path. A
    text stands for the document of that id, `{}` for all. A filter is data: it may come from outside.
    """

    def __init__(self, stage: Stage, frame: Frame, shape: Shape[T]) -> None:
        self._stage, self._frame, self._shape = stage, frame, shape

    async def insert(self, value: T, *, id: str | None = None) -> Document[T]:
        """Store a new document. Its id is the one given, else its own member `id`, else a new UUID.

        Raises:
            NotUnique: a document of that id, or one with the same unique fields, is there. Nothing was stored, and
                the transaction goes on.
            PayloadError: it does not fit the collection's type, or cannot be stored. No SQL was sent.
        """
        new = self._new(value, id)
        async with self._frame.statement() as connection:
            stored = await self._guarded(documents.add(connection, new))
        if stored is None:
            raise NotUnique(self._name, f"the id {new.id!r} or the same unique fields")
        return self._shape.document(stored, _with_id(new))

    async def insert_many(self, values: Iterable[T]) -> list[str]:
        """Store new documents in one statement, all or none of them; their ids, in order. At most 10,000.

        Raises:
            NotUnique: an id or unique fields are there. PostgreSQL ends the transaction.
            PayloadError: one does not fit; the reason names its place. No SQL was sent.
        """
        new = list(self._all_new(listed(values, subject="documents")))
        if not new:
            return []
        async with self._frame.statement() as connection:
            await self._guarded(documents.insert(connection, new))
        return [one.id for one in new]

    async def put(self, id: str, value: T, *, if_version: int | None = None) -> Document[T]:
        """Store a document under an id, over the one that is there; with `if_version` only over that version of it.

        Raises:
            Conflict: the document is not there, or has another version than `if_version`.
            NotUnique: another document has the same unique fields. PostgreSQL ends the transaction.
            PayloadError: it does not fit the collection's type, or cannot be stored. No SQL was sent.
        """
        new = self._new(value, id)
        _check_version(if_version)
        async with self._frame.statement() as connection:
            if if_version is None:
                stored = await self._guarded(documents.put(connection, new))
            else:
                stored = await self._guarded(documents.replace(connection, new, version=if_version))
        if stored is None:
            raise _changed(self._name, if_version)
        return self._shape.document(stored, _with_id(new))

    async def get(self, id: str) -> Document[T] | None:
        """The document of an id, or None.

        Raises:
            PayloadError: the id cannot be one, or what is stored does not fit the collection's type.
        """
        check_key("document id", id)
        return await self.find_one(id)

    @overload
    async def find(
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
    async def find(
        self,
        where: Where | None = None,
        *,
        search: str | None = None,
        sort: str | Sequence[str] = (),
        fields: Sequence[str],
        limit: int = 100,
        after: str | None = None,
    ) -> Page[dict[str, Any]]: ...
    async def find(
        self,
        where: Where | None = None,
        *,
        search: str | None = None,
        sort: str | Sequence[str] = (),
        fields: Sequence[str] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[Any]:
        """A page of documents: at most `limit` (1 to 1,000), by `sort` and then by id.

        `search` are words as people write them, looked for in the collection's `search` fields. `sort` is a field,
        `-field` for descending, or a list of those: what is missing or null comes first, then booleans, numbers,
        texts by their bytes, lists, objects. With `fields` the values are objects of those fields alone. The next page
        comes with `after=page.next`: it goes on behind the last document, however the collection has changed.

        Raises:
            PayloadError: a filter, sort, field or cursor is none, or a document does not fit the type.
            UsageError: the collection declares no search.
        """
        choice, keys = self._choice(where, search), parse_sort(sort)
        check_whole(limit, subject="limit", minimum=1, maximum=_MOST)
        place = None if after is None else parse_cursor(after, keys)
        paths = None if fields is None else parse_fields(fields)
        # one more than asked for tells whether another page follows
        order = Order(sort=keys, after=place, max_documents=limit + 1)
        async with self._frame.statement() as connection:
            found = await documents.find(connection, choice, order=order, fields=paths)
        read: Any = self._shape.document if fields is None else self._shape.picked
        page = found[:limit]
        return Page(map(read, page), cursor(page[-1], keys) if len(found) > limit else None)

    async def find_one(
        self, where: Where | None = None, *, search: str | None = None, sort: str | Sequence[str] = ()
    ) -> Document[T] | None:
        """The first document, or None.

        Raises:
            PayloadError: as `find`.
        """
        order = Order(sort=parse_sort(sort), after=None, max_documents=1)
        async with self._frame.statement() as connection:
            found = await documents.find(connection, self._choice(where, search), order=order)
        return self._shape.document(found[0]) if found else None

    async def count(self, where: Where | None = None, *, search: str | None = None) -> int:
        """How many documents.

        Raises:
            PayloadError: the filter is none.
        """
        async with self._frame.statement() as connection:
            return await documents.count(connection, self._choice(where, search))

    async def update(
        self,
        where: Where,
        *,
        merge: Mapping[str, Any] | None = None,
        set: Mapping[str, Any] | None = None,
        unset: str | Iterable[str] | None = None,
        inc: Mapping[str, float] | None = None,
        push: Mapping[str, Any] | None = None,
        pull: Mapping[str, Any] | None = None,
        if_version: int | None = None,
    ) -> int:
        """Change every document that a filter names, in one statement; how many.

        `merge` replaces members of the document, `set` and `unset` fields by path, `inc` adds to a number (0 when
        missing), `push` appends to a list (made when missing), `pull` takes every equal element out of one. They are
        applied in this order, to the documents as they are when it is their turn: no change of another is lost. The
        result is not compared with the collection's type.

        Raises:
            Conflict: `if_version` is given, and no document named has it.
            NotUnique: two documents would have the same unique fields. PostgreSQL ends the transaction.
            PayloadError: a filter or change is none, or does not fit a document: no number to add to, for instance.
                In the last case PostgreSQL ends the transaction.
        """
        changes = parse_changes({"merge": merge, "set": set, "unset": unset, "inc": inc, "push": push, "pull": pull})
        choice = self._choice(_named(where), None)
        _check_version(if_version)
        async with self._frame.statement() as connection:
            count = await self._guarded(documents.update(connection, choice, changes=changes, version=if_version))
        if if_version is not None and not count:
            raise _changed(self._name, if_version)
        return count

    async def delete(self, where: Where, *, if_version: int | None = None) -> int:
        """Remove every document that a filter names, `{}` for all; how many.

        Raises:
            Conflict: `if_version` is given, and no document named has it.
            PayloadError: the filter is none.
        """
        choice = self._choice(_named(where), None)
        _check_version(if_version)
        async with self._frame.statement() as connection:
            count = await documents.delete(connection, choice, version=if_version)
        if if_version is not None and not count:
            raise _changed(self._name, if_version)
        return count

    async def indexes(self) -> list[IndexState]:
        """The indexes that were declared for the collection, now or ever, and are not dropped."""
        async with self._frame.statement() as connection:
            return await states(connection, self._shape.token)

    async def create_indexes(self) -> list[str]:
        """Make the declared indexes that are missing, while others write on; the names of those made.

        Raises:
            NotUnique: documents that are there have the same unique fields.
            UsageError: it was called in a transaction.
        """
        return await create_indexes(self._beside("create indexes"), self._shape.token)

    async def drop_index(self, name: str) -> bool:
        """Drop an index of the collection by the name that `indexes` tells; whether there was one.

        Raises:
            UsageError: it was called in a transaction.
        """
        return await drop_index(self._beside("drop an index"), collection=self._name, name=name)

    @property
    def _name(self) -> str:
        return self._shape.token.name

    def _beside(self, deed: str) -> Db:
        shared = self._stage.shared
        if shared is None or self._frame.unit.transactional:
            raise UsageError(
                f"{self._frame.unit.title} cannot {deed} in a transaction: PostgreSQL does it beside all others. Use "
                "app.ctx.collection(...)."
            )
        return shared.keys.db

    def _new(self, value: T, id: str | None) -> NewDocument:
        id, body = self._shape.encode(value, id)
        return NewDocument(
            collection=self._name, id=id, body=body, schema=self._shape.token.version, forced=self._shape.forced
        )

    def _all_new(self, values: Iterable[T]) -> Iterable[NewDocument]:
        for place, value in enumerate(values):
            if place >= 10_000:
                raise UsageError("More than 10,000 documents are too many for one call. Make several.")
            try:
                yield self._new(value, None)
            except PayloadError as error:
                raise PayloadError(
                    f"document {place}: {error.reason}", path=error.path, subject=error.subject
                ) from error

    def _choice(self, where: Where | None, search: str | None) -> Choice:
        if isinstance(where, str):
            node = Test(("id",), "eq", check_key("document id", where))
        else:
            node = EVERYTHING if where is None else parse_filter(where)
        words = None
        if search is not None:
            declared = self._shape.token.search
            if declared is None:
                raise UsageError(f"Collection {self._name!r} declares no search: Collection(..., search=['name']).")
            if not isinstance(search, str) or len(search) > 1000:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise PayloadError("must be a text of at most 1,000 characters", subject="search")
            codec_for(str).encode(search, subject="search")
            words = Words(text=search, paths=declared.paths, language=declared.language)
        return Choice(collection=self._name, where=node, words=words)

    async def _guarded(self, work: Any) -> Any:
        try:
            return await work
        except UniqueViolation as error:
            raise NotUnique(self._name, _what(self._shape.token, error)) from error
        except DatabaseError as error:
            if error.sqlstate == "54000":
                raise PayloadError(
                    "has a text in an indexed field that is too long for an index (2,700 bytes)",
                    subject=f"document of collection {self._name!r}",
                ) from error
            raise


def _with_id(new: NewDocument) -> str:
    """The body as the statement stores it: the id is a member of it where it is one at all."""
    body = msgspec.json.decode(new.body)
    if new.forced or "id" in body:
        body["id"] = new.id
    return msgspec.json.encode(body).decode()


def _named(where: Where) -> Where:
    if where is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise UsageError("Say which documents: a filter, an id, or {} for all of them.")
    return where


def _check_version(version: int | None) -> None:
    if version is not None:
        check_whole(version, subject="if_version", minimum=0, maximum=_LARGEST)


def _changed(collection: str, version: int | None) -> Conflict:
    return Conflict(
        f"No such document of collection {collection!r} has version {version}: it was changed or deleted. Read it "
        "again."
    )


def _what(token: Collection[Any], error: UniqueViolation) -> str:
    for index in token.indexes:
        if index_name(token.name, index) == error.constraint:
            return f"the same {', '.join(index.fields)}"
    return "the same id" if error.constraint == "document_pkey" else "the same unique fields"
