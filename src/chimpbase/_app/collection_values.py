"""What the verbs of a collection answer, how documents are read and written, and where a page goes on."""

from __future__ import annotations

import base64
import math
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

import msgspec

from chimpbase._app.collection_token import Collection
from chimpbase._app.payloads import taken
from chimpbase._core.codec import codec_for
from chimpbase._core.errors import PayloadError, UsageError
from chimpbase._core.filters import Path, parse_path
from chimpbase._core.names import check_key
from chimpbase._store.documents import SortKey, Stored

T = TypeVar("T")
_ANY = codec_for(Any)
_MOST_KEYS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Generic[T]):
    """A document as it is stored. `version` is that of the last write, and no other write has it."""

    id: str
    value: T
    version: int
    created_at: datetime
    updated_at: datetime


class Page(list[Document[T]]):
    """The documents of a page. `next` is what `after=` takes to go on; None when nothing follows."""

    def __init__(self, documents: Iterable[Document[T]], next: str | None) -> None:
        super().__init__(documents)
        self.next = next


class Shape(Generic[T]):
    """How the documents of a collection are written and read."""

    def __init__(self, token: Collection[T], *, named: bool) -> None:
        self.token, self._named = token, named
        self.forced = token.type is Any or token.type is dict

    def encode(self, value: Any, id: str | None) -> tuple[str, str]:
        """The id and the JSON text of a new document; an id is made when there is none."""
        subject = f"document of collection {self.token.name!r}"
        own: object = cast("dict[str, object]", value).get("id") if isinstance(value, dict) else _own_id(value)
        if id is None:
            id = new_id() if own is None else cast("str", own)
        elif own is not None and own != id:
            raise UsageError(f"{subject}: its own id {own!r:.80} is not the id {id!r:.80} that was given.")
        check_key("document id", id)
        body = self.token.codec.encode(taken(self.token.codec, value, subject, named=self._named), subject=subject)
        if not body.startswith("{"):
            raise PayloadError(f"must be a JSON object, not {describe(cast('object', value))}", subject=subject)
        return id, body

    def document(self, stored: Stored, body: str | None = None) -> Document[T]:
        """A stored document, read."""
        return self._made(stored, self.decode(stored, stored.body if body is None else body))

    def picked(self, stored: Stored) -> Document[dict[str, Any]]:
        """Some fields of a stored document, as they are stored."""
        return self._made(stored, msgspec.json.decode(stored.body))

    def decode(self, stored: Stored, body: str) -> T:
        """The body as the collection's type, through the upcasts if it was stored under an older version.

        Raises:
            PayloadError: it does not fit the type, or an upcast failed.
        """
        token, subject = self.token, f"document {stored.id!r} of collection {self.token.name!r}"
        if stored.schema < token.version and token.upcasts:
            value = msgspec.json.decode(body)
            try:
                for version in range(stored.schema, token.version):
                    if upcast := token.upcasts.get(version):
                        value = upcast(value)
            except Exception as error:
                raise PayloadError(
                    f"its upcast from version {stored.schema} failed: {type(error).__name__}: {error}", subject=subject
                ) from error
            return token.codec.convert(value, subject=subject)
        return token.codec.decode(body, subject=subject)

    def _made(self, stored: Stored, value: Any) -> Document[Any]:
        return Document(
            id=stored.id,
            value=value,
            version=stored.version,
            created_at=stored.created_at,
            updated_at=stored.updated_at,
        )


def _own_id(value: object) -> object:
    return getattr(value, "id", None)


def describe(value: object) -> str:
    """The name of a value's type."""
    return type(value).__name__


def new_id() -> str:
    """A UUID of version 7: later ones sort after earlier ones, by the millisecond."""
    millisecond = time.time_ns() // 1_000_000
    number = millisecond << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=number))


def listed(given: Any, *, subject: str) -> list[Any]:
    """Several, in order; a text is one.

    Raises:
        PayloadError: it holds nothing that could be gone through.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable):
        raise PayloadError(f"must be a list, not {type(given).__name__}", subject=subject)
    return list(cast("Iterable[Any]", given))


def parse_sort(sort: str | Sequence[str]) -> list[SortKey]:
    """Read `"age"`, `"-age"` or a list of such.

    Raises:
        PayloadError: it is none.
    """
    given = listed(sort, subject="sort")
    if len(given) > _MOST_KEYS:
        raise PayloadError(f"has {len(given)} keys; the limit is {_MOST_KEYS}", subject="sort")
    return [
        SortKey(path=parse_path(one.removeprefix("-"), subject="sort"), descending=one.startswith("-"))
        if isinstance(one, str)
        else _no_key(one)
        for one in given
    ]


def parse_fields(fields: Sequence[str]) -> list[Path]:
    """Read the fields of a projection.

    Raises:
        PayloadError: one of them is no path, or there are too many.
    """
    given: list[Any] = [] if isinstance(fields, str) else listed(fields, subject="fields")
    if not 1 <= len(given) <= 100:
        raise PayloadError("must be a list of 1 to 100 fields", subject="fields")
    return [parse_path(field, subject="fields") for field in given]


def cursor(stored: Stored, sort: Sequence[SortKey]) -> str:
    """Where a page ends: opaque, and good for the same sort only."""
    place = [_spelt(sort), *stored.keys, stored.id]
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def parse_cursor(after: str, sort: Sequence[SortKey]) -> list[Any]:
    """The place that a cursor stands for.

    Raises:
        PayloadError: it is none, or that of another sort.
    """
    try:
        place = msgspec.json.decode(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        (spelt, *keys, id) = cast("list[Any]", place)
        kinds: list[type[object]] = [type(key) for key in keys]
        fits = spelt == _spelt(sort) and kinds == [int, str, str] * len(sort) and isinstance(id, str)
        if fits:
            for key in keys[1::3]:
                float(key)
            _ANY.encode([*keys, id], subject="after")
    except Exception as error:
        raise PayloadError("is no cursor of a page", subject="after") from error
    if not fits or not all(-1 <= key <= 5 for key in keys[0::3]) or not all(map(_is_number, keys[1::3])):
        raise PayloadError("is the cursor of another sort; begin at the first page", subject="after")
    return [*keys, id]


def parse_changes(changes: Mapping[str, Any]) -> list[tuple[str, Path, Any]]:
    """Read what `update` was asked to do, in the order merge, set, unset, inc, push, pull.

    Raises:
        PayloadError: a path or a value is wrong, or the id would change.
        UsageError: nothing was asked.
    """
    found: list[tuple[str, Path, Any]] = []
    for verb, given in changes.items():
        if given is None:
            continue
        if verb == "merge":
            found.append((verb, (), _object(given, "merge")))
            continue
        if verb == "unset":
            found += [(verb, parse_path(field, subject="unset"), None) for field in listed(given, subject="unset")]
            continue
        for field, value in _object(given, verb).items():
            if verb == "inc" and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise PayloadError("takes a number", path=f"$.{field}", subject="inc")
            found.append((verb, parse_path(field, subject=verb), value))
    if not found:
        raise UsageError("An update needs a change: merge, set, unset, inc, push or pull.")
    if any(path == ("id",) or (verb == "merge" and "id" in value) for verb, path, value in found):
        raise PayloadError("a document's id cannot be changed", path="$.id", subject="change")
    return found


def _object(given: Any, verb: str) -> dict[str, Any]:
    plain = msgspec.json.decode(_ANY.encode(given, subject=verb))
    if not isinstance(plain, dict):
        raise PayloadError("takes an object of fields and values", subject=verb)
    return cast("dict[str, Any]", plain)


def _spelt(sort: Sequence[SortKey]) -> str:
    return ",".join(f"{'-' if key.descending else ''}{'/'.join(key.path)}" for key in sort)


def _is_number(text: str) -> bool:
    return len(text) < 400 and set(text) <= set("0123456789.-+eE") and math.isfinite(float(text))


def _no_key(given: object) -> SortKey:
    raise PayloadError(f"must be fields such as 'age' or '-age', not {given!r:.60}", subject="sort")
