"""The slow walk over a value: where exactly is what JSON or PostgreSQL cannot hold?

`Codec` comes here only when a cheap test over the encoded bytes is in doubt, or to name the path in an error.
Invariant: a tree in which `find_fault` finds nothing comes back from a `jsonb` column as it went in. Absent on purpose:
declared types (the libraries in `codec_types` judge those) and mending; a payload is refused, never changed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from inspect import isawaitable
from typing import Any, NamedTuple, cast

import msgspec

MAX_DEPTH = 100
MAX_INTEGER = 2**63 - 1
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep. Flatten it"

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_STRING_OR_NUMBER = re.compile(_STRINGS.pattern + rb"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BAD_CHARACTER = re.compile("[\x00\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_MINUTE = timedelta(minutes=1)
_ABSENT = object()


class Fault(NamedTuple):
    """What is wrong, and at which JSON path."""

    path: str
    reason: str


def json_path(parent: str, key: object) -> str:
    """Extend a JSON path by a dict key or a list index; the result is always printable ASCII."""
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        return f"{parent}[{_show(key)}]"
    if isinstance(key, int):
        return f"{parent}[{key}]"
    if _PLAIN_KEY.fullmatch(key):
        return f"{parent}.{key}"
    return f"{parent}[{json.dumps(key[:60])}]"


def is_too_deep(encoded: bytes) -> bool:
    """Tell whether valid JSON text is nested deeper than 100 levels, in passes over the bytes and not over the tree."""
    if encoded.count(b"[") + encoded.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRINGS.sub(b"", encoded).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        # each pass takes away the innermost level everywhere
        shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not shorter:
            return False
        if len(shorter) == len(brackets):
            return True
        brackets = shorter
    return True


def spell_out_floats(text: bytes) -> bytes:
    """Write numbers with an exponent, such as 5e16, as 50000000000000000.0 in JSON text.

    PostgreSQL's jsonb keeps the point and so the type; of 5e16 it makes an integer, which may not even equal the float.
    """
    return _STRING_OR_NUMBER.sub(_spelled_out, text)


def find_fault(plain: object, back: object = _ABSENT, *, path: str = "$", depth: int = 0) -> Fault | None:
    """Find the first thing in a tree of builtins that storage would refuse or silently change.

    `plain` is the value flattened to builtins with dates, UUIDs, Decimals and bytes left as they are; `back` is the
    same after a round trip through JSON, or missing where no declared type kept it. The two tell `bytes` and keys that
    are not text apart: allowed where they are declared, refused where they would come back as something else.
    """
    if depth > MAX_DEPTH:
        return Fault(_shorten(path), TOO_DEEP)
    if isinstance(plain, dict):
        return _find_in_dict(cast("dict[object, object]", plain), back, path=path, depth=depth)
    if isinstance(plain, (list, tuple)):
        items = cast("list[object] | tuple[object, ...]", plain)
        others = cast("list[object]", back) if isinstance(back, (list, tuple)) else []
        for index, item in enumerate(items):
            other = others[index] if index < len(others) else _ABSENT
            if fault := find_fault(item, other, path=f"{path}[{index}]", depth=depth + 1):
                return fault
        return None
    reason = _leaf_fault(plain, back)
    return Fault(_shorten(path), reason) if reason else None


def find_unencodable(value: object, encode: Callable[[Any], object], *, path: str = "$") -> Fault | None:
    """Find the innermost part of `value` that `encode` refuses, by trying part after part; None if it takes all."""
    for _ in range(MAX_DEPTH + 1):
        if not (error := _refusal(value, encode)):
            return None
        inner = next(((key, child) for key, child in _children(value) if _refusal(child, encode)), None)
        if inner is None:
            if found := _unusable_key(value, encode):
                return Fault(_shorten(json_path(path, found[0])), found[1])
            return Fault(_shorten(path), _leaf_fault(value, value) or _describe(value, error))
        path, value = json_path(path, inner[0]), inner[1]
    return Fault(_shorten(path), TOO_DEEP)


def parse_json(text: bytes) -> object:
    """Parse JSON that came from outside, strictly: what this accepts, every part of the system can hold.

    Refused: invalid UTF-8, duplicate keys, NaN and Infinity, numbers out of range, U+0000, lone surrogates, and more
    than 100 levels. Numbers with a point or an exponent are floats, all others ints.

    Raises: ValueError, with a sentence.
    """
    try:
        source = text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not valid UTF-8 at byte {error.start}") from None
    # before the parser, which recurses: brackets inside unbalanced strings can only make this refuse broken JSON
    if is_too_deep(text):
        raise ValueError(TOO_DEEP)
    try:
        value: object = json.loads(source, object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    return value


def _spelled_out(match: re.Match[bytes]) -> bytes:
    token = match.group()
    if token.startswith(b'"') or b"e" not in token or b"e-" in token:
        return token
    plain = format(Decimal(token.decode()), "f").encode()
    return plain if b"." in plain else plain + b".0"


def _find_in_dict(plain: dict[object, object], back: object, *, path: str, depth: int) -> Fault | None:
    others = cast("dict[object, object]", back) if isinstance(back, dict) else {}
    for key, item in plain.items():
        known = key in others
        reason = _leaf_fault(key, key)
        reason = f"{reason} (in a key)" if reason else None
        if reason is None and not known and not isinstance(key, str):
            reason = (
                f"has the key {_show(key)}, which JSON would turn into text. Use a text key, or declare the key's type"
            )
        if reason:
            return Fault(_shorten(json_path(path, key)), reason)
        if fault := find_fault(item, others[key] if known else _ABSENT, path=json_path(path, key), depth=depth + 1):
            return fault
    return None


def _leaf_fault(value: object, back: object) -> str | None:
    match value:
        case str():
            bad = _BAD_CHARACTER.search(value)
            return bad and _character_reason(bad.group())
        case bool() | None:
            return None
        case int():
            in_range = -MAX_INTEGER <= value <= MAX_INTEGER
            return None if in_range else "is an integer outside +-(2^63 - 1). Send it as text"
        case float():
            return None if math.isfinite(value) else f"is {value}, which JSON has no number for. Use null or text"
        case Decimal():
            return None if value.is_finite() else f"is the Decimal {value}, which is not a finite number"
        case datetime():
            return _datetime_fault(value)
        case bytes() | bytearray() | memoryview():
            # base64 text comes back as bytes only where bytes is the declared type
            lost = isinstance(back, str) or back is _ABSENT
            return "is bytes where no bytes are declared. Declare the field as bytes, or encode it" if lost else None
        case _:
            return None


def _character_reason(character: str) -> str:
    if character == "\0":
        return "contains the character U+0000, which PostgreSQL cannot store"
    return f"contains the lone surrogate U+{ord(character):04X}, which is not text"


def _datetime_fault(value: datetime) -> str | None:
    offset = value.utcoffset()
    if offset is None:
        return "is a datetime without a time zone. Pass an aware one, such as datetime.now(timezone.utc)"
    if offset % _MINUTE:
        return "is a datetime whose UTC offset has seconds, which JSON cannot carry. Convert it to UTC"
    return None


def _refusal(value: object, encode: Callable[[Any], object]) -> Exception | None:
    try:
        encode(value)
    except Exception as error:
        return error
    return None


def _children(value: object) -> Iterator[tuple[object, object]]:
    """Yield what a value is made of, with the key or index of each part, as JSON would name it."""
    if isinstance(value, Mapping):
        yield from cast("Mapping[object, object]", value).items()
    elif isinstance(value, (list, tuple, AbstractSet)):
        yield from enumerate(cast("list[object]", value))
    elif isinstance(value, msgspec.Struct):
        names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        yield from ((encoded, getattr(value, name, None)) for encoded, name in names)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif hasattr(type(value), "model_fields") or hasattr(type(value), "__attrs_attrs__"):
        names = getattr(type(value), "model_fields", None) or [
            a.name for a in getattr(type(value), "__attrs_attrs__", ())
        ]
        yield from ((name, getattr(value, name, None)) for name in names)


def _unusable_key(value: object, encode: Callable[[Any], object]) -> tuple[object, str] | None:
    keys = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else ()
    for key in keys:
        if _refusal({key: None}, encode):
            reason = _leaf_fault(key, key)
            return key, f"{reason} (in a key)" if reason else f"has the key {_show(key)}, which cannot be a JSON key"
    return None


def _describe(value: object, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return TOO_DEEP
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isawaitable(value):
        return f"is a {name} that nobody awaited. Write `await` before the call"
    if isinstance(value, Enum):
        return f"is a {name} whose value cannot be stored: {error}"
    return f"is a {name}, which has no JSON form. Use a dataclass, a dict, a list, text or a number"


def _show(key: object) -> str:
    try:
        return ascii(key)[:60]
    except Exception:
        return f"<{type(key).__name__}>"


def _shorten(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]}...{path[-60:]}"


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"has the key {json.dumps(twice[:60])} twice in one object")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"contains {name}, which is not JSON")


def _integer(digits: str) -> int:
    # by length first: int() of thousands of digits is slow, or refused by the interpreter
    if len(digits) > 20 or not -MAX_INTEGER <= (value := int(digits)) <= MAX_INTEGER:
        raise ValueError("contains an integer outside +-(2^63 - 1). Send it as text")
    return value
