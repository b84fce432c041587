"""Collection: the token of a set of JSON documents, and the indexes declared for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, overload

from chimpbase._app.tokens import Token
from chimpbase._core.errors import UsageError
from chimpbase._core.filters import Path, parse_path
from chimpbase._core.numbers import check_whole
from chimpbase._store.documents import LANGUAGES

T = TypeVar("T")
#: Makes a document's JSON object into that of the next version.
Upcast = Callable[[dict[str, Any]], dict[str, Any]]
_MOST_FIELDS = 5


class Index:
    """An index over one or more fields of a collection, in this order; `unique` for at most one document of a value.

    Fields that are missing or null are not compared: any number of documents may be without a unique field.

    Example:
        >>> Index("address.city", "age")
        Index('address.city', 'age')
    """

    def __init__(self, *fields: str, unique: bool = False) -> None:
        if not 1 <= len(fields) <= _MOST_FIELDS:
            raise UsageError(f"An index has 1 to {_MOST_FIELDS} fields, not {len(fields)}.")
        self.fields = fields
        self.paths: tuple[Path, ...] = tuple(parse_path(field, subject="index") for field in fields)
        self.unique = unique is True

    def __repr__(self) -> str:
        return f"Index({', '.join(map(repr, self.fields))}{', unique=True' if self.unique else ''})"

    def spec(self) -> dict[str, Any]:
        """What it is made of, as it is stored and hashed."""
        return {"fields": [list(path) for path in self.paths], "unique": self.unique}


class Search:
    """The fields whose words can be searched, and the language they are written in."""

    def __init__(self, fields: Sequence[str], *, language: str) -> None:
        if isinstance(fields, str) or not isinstance(cast(object, fields), Iterable) or not fields:
            raise UsageError(f"search must be a list of fields, not {fields!r:.60}.")
        self.fields, self.language = tuple(fields), language
        self.paths: tuple[Path, ...] = tuple(parse_path(field, subject="search") for field in fields)

    def __repr__(self) -> str:
        return f"Search({list(self.fields)!r}, language={self.language!r})"

    def spec(self) -> dict[str, Any]:
        """What it is made of, as it is stored and hashed."""
        return {"search": [list(path) for path in self.paths], "language": self.language}


class Collection(Token[T]):
    """JSON documents of one type, each with an id.

    `version` is that of the type. A document that was stored under a lower one is read through `upcasts`: the function
    under `n` makes the JSON object of version `n` into that of `n + 1`. `indexes` are fields, or `Index` for several
    fields or unique ones; `search` are the fields whose words `find(search=...)` looks for. Indexes are made when an
    app that registers the collection starts.

    Example:
        >>> customers = Collection("customers", dict, indexes=["city", Index("email", unique=True)])
        >>> customers.indexes
        (Index('city'), Index('email', unique=True))
    """

    kind = "collection"

    @overload
    def __init__(
        self: Collection[Any],
        name: str,
        *,
        version: int = 1,
        upcasts: Mapping[int, Upcast] | None = None,
        indexes: Sequence[str | Index] = (),
        search: Sequence[str] = (),
        language: str = "simple",
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        type: type[T],
        *,
        version: int = 1,
        upcasts: Mapping[int, Upcast] | None = None,
        indexes: Sequence[str | Index] = (),
        search: Sequence[str] = (),
        language: str = "simple",
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        type: Any,
        *,
        version: int = 1,
        upcasts: Mapping[int, Upcast] | None = None,
        indexes: Sequence[str | Index] = (),
        search: Sequence[str] = (),
        language: str = "simple",
    ) -> None: ...
    def __init__(
        self,
        name: str,
        type: Any = Any,
        *,
        version: int = 1,
        upcasts: Mapping[int, Upcast] | None = None,
        indexes: Sequence[str | Index] = (),
        search: Sequence[str] = (),
        language: str = "simple",
    ) -> None:
        super().__init__(name, type)
        if not self.codec.is_object:
            raise UsageError(f"Documents of collection {name!r} must be JSON objects; {type!r:.60} is not.")
        self.version = check_whole(version, subject="version", minimum=1, maximum=1_000_000)
        if not isinstance(cast(object, upcasts or {}), Mapping):
            raise UsageError(f"upcasts must map versions to functions, not {upcasts!r:.60}.")
        self.upcasts = dict(upcasts or {})
        for number, upcast in self.upcasts.items():
            check_whole(number, subject="the version of an upcast", minimum=1, maximum=version - 1)
            if not callable(upcast):
                raise UsageError(f"The upcast from version {number} must be a function, not {upcast!r:.40}.")
        _check_whole_chain(name, self.version, self.upcasts)
        if isinstance(indexes, str) or not isinstance(cast(object, indexes), Iterable):
            raise UsageError(f"indexes must be a list of fields or Index(...), not {indexes!r:.60}.")
        self.indexes = tuple(one if isinstance(one, Index) else Index(one) for one in indexes)
        if not isinstance(cast(object, language), str) or language not in LANGUAGES:
            raise UsageError(f"There is no language {language!r:.40}; there are: {', '.join(sorted(LANGUAGES))}.")
        self.search = Search(search, language=language) if search else None

    def traits(self) -> tuple[Any, ...]:
        """See `Token`."""
        return self.type, self.version, tuple(index_name(self.name, one) for one in self.declared())

    def declared(self) -> list[Index | Search]:
        """Every index it declares."""
        return [*self.indexes, *([self.search] if self.search else [])]


def _check_whole_chain(name: str, version: int, upcasts: Mapping[int, Upcast]) -> None:
    """A chain may begin at any version, but what it leaves out would be read as if nothing had changed there."""
    first = min(upcasts, default=version)
    missing = [number for number in range(first, version) if number not in upcasts]
    if missing:
        raise UsageError(
            f"Collection {name!r} has version {version} and an upcast from {first}, but none from {missing[0]}: "
            f"documents of version {first} could not be read. Give one, which may return its document as it is."
        )


def index_name(collection: str, index: Index | Search) -> str:
    """The name of an index in the database, which has room for 63 bytes: so it is a hash of all that matters."""
    text = json.dumps([collection, index.spec()], sort_keys=True)
    return f"document_{hashlib.sha256(text.encode()).hexdigest()[:24]}"
