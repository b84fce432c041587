"""Filters: which documents are meant. Plain data, such as may come from outside, read into a tree of tests.

    {"city": "Lisbon", "age": {"gte": 18, "lt": 65}, "or": [{"vip": True}, {"tags": {"contains": "gold"}}]}

Invariant: a tree that was made here is bounded in depth and tests, holds storable JSON values only, and compares like
with like. Each test is true or false of any document, never unknown: a number is not compared with a text, and what is
missing equals nothing. Absent on purpose: SQL, regular expressions, and code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import msgspec

from chimpbase._core.codec import codec_for
from chimpbase._core.errors import PayloadError

MAX_DEPTH = 10
MAX_TESTS = 50
MAX_VALUES = 1000
MAX_PATH = 10
MAX_SEGMENT = 128
_MAX_BYTES = 256 * 1024

Path: TypeAlias = tuple[str, ...]
Op = Literal["eq", "gt", "gte", "lt", "lte", "in", "exists", "contains", "prefix"]
_NEGATED = {"ne": "eq", "nin": "in"}
_OPS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists", "contains", "prefix")
_ANY = codec_for(Any)


@dataclass(frozen=True, slots=True)
class Test:
    """One field and one operator; `value` is plain JSON."""

    path: Path
    op: Op
    value: Any


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; none at all holds of everything."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Node


Node: TypeAlias = Test | All | AnyOf | Not
EVERYTHING = All(())


def parse_filter(given: Mapping[str, Any]) -> Node:
    """Read a filter.

    Raises: PayloadError, naming the place.
    """
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PayloadError(f"must be a mapping such as {{'name': 'Ada'}}, not {type(given).__name__}", subject="filter")
    plain = msgspec.json.decode(_ANY.encode(dict(given), subject="filter", limit_bytes=_MAX_BYTES))
    reader = _Reader()
    return reader.mapping(plain, "$", 1)


def parse_path(given: str, *, subject: str) -> Path:
    """Read a path into a document: `address.city`, or `/address/city` where a name has a dot in it.

    A number is the place in a list. In the form with slashes `~1` is a slash and `~0` a tilde, as in RFC 6901.

    Raises: PayloadError.
    """
    text = cast(object, given)
    if not isinstance(text, str) or not text:
        raise PayloadError(f"must be a path such as 'address.city', not {text!r:.60}", subject=subject)
    if text.startswith("/"):
        path = tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))
    else:
        path = tuple(text.split("."))
    _ANY.encode(text, subject=subject)
    if len(path) > MAX_PATH:
        raise PayloadError(f"the path {text:.60} is {len(path)} levels deep; the limit is {MAX_PATH}", subject=subject)
    for part in path:
        if not part or len(part) > MAX_SEGMENT:
            raise PayloadError(f"the path {text!r:.60} has a name that is empty or too long", subject=subject)
    return path


class _Reader:
    """Reads one filter, and counts."""

    def __init__(self) -> None:
        self._tests = 0

    def mapping(self, given: object, place: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise _wrong(f"is nested deeper than {MAX_DEPTH} levels", place)
        if not isinstance(given, dict):
            raise _wrong("must be a mapping of fields", place)
        return _all([self._member(key, value, place, depth) for key, value in cast("dict[str, Any]", given).items()])

    def _member(self, key: str, value: Any, place: str, depth: int) -> Node:
        here = f"{place}.{key}"
        match key:
            case "and" | "or":
                if not isinstance(value, list):
                    raise _wrong("must be a list of filters (a field of that name is written '/and' or '/or')", here)
                listed = cast("list[object]", value)
                parts = [self.mapping(part, f"{here}[{place}]", depth + 1) for place, part in enumerate(listed)]
                return _all(parts) if key == "and" else AnyOf(tuple(parts))
            case "not":
                return Not(self.mapping(value, here, depth + 1))
            case _:
                return self._field(parse_path(key, subject="filter"), value, here)

    def _field(self, path: Path, value: Any, place: str) -> Node:
        if not isinstance(value, dict):
            return self._test(path, "eq", value, place)
        operators = cast("dict[str, Any]", value)
        if not operators:
            raise _wrong("holds no operator; write {'eq': {}} to compare with an empty object", place)
        for op in operators:
            if op not in _OPS:
                raise _wrong(
                    f"has no operator {op!r:.40}; there are {', '.join(_OPS)}. Write {{'eq': ...}} to compare with an "
                    "object",
                    place,
                )
        return _all([self._test(path, op, operand, f"{place}.{op}") for op, operand in operators.items()])

    def _test(self, path: Path, op: str, value: Any, place: str) -> Node:
        self._tests += 1
        if self._tests > MAX_TESTS:
            raise _wrong(f"has more than {MAX_TESTS} tests", "$")
        if op in _NEGATED:
            return Not(_checked(path, _NEGATED[op], value, place))
        return _checked(path, op, value, place)


def _checked(path: Path, op: str, value: Any, place: str) -> Test:
    match op:
        case "gt" | "gte" | "lt" | "lte":
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise _wrong("takes a number or a text", place)
        case "in":
            if not isinstance(value, list):
                raise _wrong("takes a list", place)
            if len(cast("list[object]", value)) > MAX_VALUES:
                raise _wrong(f"takes at most {MAX_VALUES} values", place)
        case "exists":
            if not isinstance(value, bool):
                raise _wrong("takes true or false", place)
        case "prefix":
            if not isinstance(value, str):
                raise _wrong("takes a text", place)
        case _:
            pass
    return Test(path, cast("Op", op), value)


def _all(parts: Sequence[Node]) -> Node:
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _wrong(reason: str, place: str) -> PayloadError:
    return PayloadError(reason, path=place[:200], subject="filter")
