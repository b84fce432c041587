"""Codecs: the one place where a Python value becomes stored JSON, and stored JSON a Python value.

Invariant: whatever `encode` accepts, `decode` gives back equal and PostgreSQL stores unchanged; whatever it does not
accept is a PayloadError with the JSON path of the offending value, never another exception. Unknown fields are ignored
and missing ones take their defaults, so rows survive a rolling deploy. Absent on purpose: pickle, and mending of bad
values.

`encode` writes the value, reads it back as its declared type and compares. Equal, and nothing suspicious among the
bytes: done. Only otherwise the value is walked (`codec_tree`), to be cleared or to be told apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import msgspec

from chimpbase._core.codec_tree import TOO_DEEP, find_fault, find_unencodable, is_too_deep, parse_json, spell_out_floats
from chimpbase._core.codec_types import Engine, describe_type, engine_for
from chimpbase._core.errors import PayloadError
from chimpbase._core.text import describe_exception as describe_exception
from chimpbase._core.text import scrub as scrub

T = TypeVar("T")

DEFAULT_LIMIT_BYTES = 1024 * 1024

# shorter text cannot hold a hundred opening and a hundred closing brackets
_SHORTEST_TOO_DEEP = 200
# a local time that ends its string has no UTC offset
_NAIVE = re.compile(rb':[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"')
_NOT_FINITE = re.compile(rb'(?:NaN[0-9]*|Infinity)"')
# a run of 19 digits may be beyond 64 bits; translating all digits to one is ten times faster than a regular expression
_ONE_DIGIT = bytes(ord("0") if chr(code).isdecimal() and code < 128 else code for code in range(256))
_LONG_RUN = b"0" * 19
_EXPONENT = b"0e0"
_WHERE = re.compile(r"(.*) - at `(.*)`", re.DOTALL)
#: What goes on with the value itself, which may be a secret.
_QUOTING = re.compile(r"Invalid (?:enum )?value(?= )")


class Codec(Generic[T]):
    """Encodes and decodes values of one annotated type. Made by `codec_for`; immutable and thread-safe."""

    __slots__ = ("_dump", "_engine", "_is_exact", "_load", "annotation")

    def __init__(self, annotation: Any, engine: Engine) -> None:
        self.annotation = annotation
        self._engine = engine
        self._dump, self._load = engine.dump, engine.load
        # nothing of the type reads back equal and is not stored as it is, but for U+0000 and very long numbers
        self._is_exact = engine.trust_equality and not (engine.has_float or engine.has_datetime or engine.has_decimal)

    def __repr__(self) -> str:
        return f"Codec({describe_type(self.annotation)})"

    @property
    def is_object(self) -> bool:
        """Whether a value of this type is, or may be, a JSON object: a dataclass, Struct, model, dict or Any."""
        return self._engine.is_object

    def encode(self, value: T, *, subject: str, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> str:
        """Return `value` as JSON text for storage. `subject` names it in errors ("payload of queue 'mail.send'").

        Raises: PayloadError when the value does not fit its type, cannot be stored, or takes more than `limit_bytes`.
        """
        try:
            encoded = self._dump(value)
            if len(encoded) > limit_bytes:
                raise _oversized(len(encoded), limit_bytes, subject=subject)
            decoded = self._load(encoded)
        except PayloadError:
            raise
        except Exception as error:
            raise self._refused(value, error, subject=subject) from error
        engine = self._engine
        same = engine.trust_equality and _equal(value, decoded)
        if same and self._is_exact and len(encoded) < len(_LONG_RUN) and b"\\u0000" not in encoded:
            return encoded.decode()
        # a value equal to its declared type is no deeper than the type
        if not (same and engine.is_shallow) and len(encoded) > _SHORTEST_TOO_DEEP and is_too_deep(encoded):
            raise self._refused(value, RecursionError(), subject=subject)
        digits = encoded.translate(_ONE_DIGIT)
        if not same or self._looks_suspicious(encoded, digits):
            self._clear(value, decoded, subject=subject)
        if engine.has_float and _EXPONENT in digits:
            encoded = spell_out_floats(encoded)
            if len(encoded) > limit_bytes:
                raise _oversized(len(encoded), limit_bytes, subject=subject)
        return encoded.decode()

    def decode(self, text: str | bytes, *, subject: str) -> T:
        """Read stored JSON text as the declared type, strictly: "3" is not an int, a datetime needs its zone.

        Raises: PayloadError.
        """
        try:
            value = self._load(text)
            if self._engine.has_datetime and _NAIVE.search(text.encode() if isinstance(text, str) else text):
                self._check_storable(value, subject=subject)
        except PayloadError:
            raise
        except Exception as error:
            raise _translated(error, subject=subject) from _cause(error)
        return value

    def convert(self, value: Any, *, subject: str, lax: bool = False) -> T:
        """Read `value`, made of builtins or of the declared type itself, as a new value of the declared type.

        With `lax`, text is read as the number, boolean, null or date that is declared: for query strings and command
        lines.

        Raises: PayloadError.
        """
        try:
            taken = self._engine.take(value, lax)
            self._check_storable(taken, subject=subject)
        except PayloadError:
            raise
        except Exception as error:
            raise self._refused(value, error, subject=subject) from error
        return taken

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the type."""
        return self._engine.schema()

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change when the JSON Schema does, titles and descriptions aside."""
        canonical = json.dumps(_without_prose(self.schema()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def _looks_suspicious(self, encoded: bytes, digits: bytes) -> bool:
        """Tell whether text that reads back equal may still not be storable. May be wrong, but only in saying yes."""
        return (
            b"\\u0000" in encoded
            or _LONG_RUN in digits
            or (self._engine.has_datetime and _NAIVE.search(encoded) is not None)
            or (self._engine.has_decimal and _NOT_FINITE.search(encoded) is not None)
        )

    def _clear(self, value: T, decoded: T, *, subject: str) -> None:
        """Decide a doubtful value: it was not equal to itself after the round trip, or its bytes look suspicious."""
        try:
            plain, back = self._engine.plain(value), self._engine.plain(decoded)
            # text given for a date is as good as the date it reads back as
            if fault := find_fault(plain, back) or find_fault(back, back):
                raise PayloadError(fault.reason, path=fault.path, subject=subject)
            # in text a UUID and a str look the same; flattened values do not
            self._engine.take(plain, False)
        except PayloadError:
            raise
        except Exception as error:
            raise self._refused(value, error, subject=subject) from error

    def _check_storable(self, value: T, *, subject: str) -> None:
        plain = self._engine.plain(value)
        if fault := find_fault(plain, plain):
            raise PayloadError(fault.reason, path=fault.path, subject=subject)

    def _refused(self, value: Any, error: Exception, *, subject: str) -> PayloadError:
        """Find the best reason: where the value cannot be stored, else where it does not fit its type."""
        flatten = self._engine.plain
        try:
            fault = find_unencodable(value, lambda part: msgspec.json.encode(flatten(part)))
            if fault is None:
                plain = flatten(value)
                fault = find_fault(plain, plain)
        except Exception:
            fault = None
        if fault is not None:
            return PayloadError(fault.reason, path=fault.path, subject=subject)
        return _translated(error, subject=subject)


def codec_for(annotation: Any) -> Codec[Any]:
    """Return the codec of an annotated type; None stands for `type(None)`. The same annotation gives the same codec.

    Raises: UsageError, naming the type, when it cannot be a payload.
    """
    try:
        return _cached_codec(annotation)
    except TypeError:
        # unhashable metadata, such as Annotated[int, {"a": 1}]
        return Codec(annotation, engine_for(annotation))


def decode_json(text: bytes, *, subject: str, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Any:
    """Parse a JSON document from outside (an HTTP body, an argument) into builtins, strictly.

    Refuses duplicate keys, numbers out of range, U+0000, bad UTF-8 and more than 100 levels: whatever it returns can be
    stored.

    Raises: PayloadError.
    """
    if len(text) > limit_bytes:
        raise _oversized(len(text), limit_bytes, subject=subject)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise PayloadError(str(error), subject=subject) from None
    if fault := find_fault(value, value):
        raise PayloadError(fault.reason, path=fault.path, subject=subject)
    return value


@lru_cache(maxsize=4096, typed=True)
def _cached_codec(annotation: Any) -> Codec[Any]:
    return Codec(annotation, engine_for(annotation))


def _oversized(size: int, limit_bytes: int, *, subject: str) -> PayloadError:
    reason = f"takes {size:,} bytes as JSON; the limit is {limit_bytes:,}. Store it elsewhere and pass its key"
    return PayloadError(reason, subject=subject)


def _equal(value: Any, decoded: Any) -> bool:
    try:
        return (value == decoded) is True
    except Exception:  # a signalling NaN, or a broken __eq__: in doubt
        return False


def _translated(error: Exception, *, subject: str) -> PayloadError:
    """Turn an error of the JSON libraries, or of a type's own validation, into ours."""
    if isinstance(error, RecursionError):
        return PayloadError(TOO_DEEP, subject=subject)
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        return PayloadError(f"is not valid UTF-8 at position {error.start}", subject=subject)
    if isinstance(error, msgspec.ValidationError):
        return _from_msgspec(str(error), subject=subject)
    if isinstance(error, msgspec.DecodeError):
        return PayloadError(f"is not valid JSON: {error}", subject=subject)
    if hasattr(error, "errors") and type(error).__module__.startswith("pydantic"):
        return _from_pydantic(error, subject=subject)
    return PayloadError(f"was refused by its type: {type(error).__name__}: {_safely(error)}", subject=subject)


def _cause(error: Exception) -> BaseException | None:
    """What to show as the cause of ours: not the error of a library, which quotes the value, but what led to it."""
    foreign = isinstance(error, msgspec.ValidationError) or type(error).__module__.startswith("pydantic")
    return error.__cause__ if foreign else error


def _from_msgspec(message: str, *, subject: str) -> PayloadError:
    # the message may quote what a __post_init__ said, at any length
    match = _WHERE.fullmatch(message := scrub(message, limit_bytes=2000))
    reason, path = match.groups() if match else (message, None)
    if quoting := _QUOTING.match(reason):
        reason = quoting[0]
    if path is None:
        return PayloadError(reason, subject=subject)
    if path.startswith("key` in `"):
        return PayloadError(f"{reason} (in a key)", path=path.removeprefix("key` in `"), subject=subject)
    return PayloadError(reason, path=path, subject=subject)


def _from_pydantic(error: Any, *, subject: str) -> PayloadError:
    first = cast("dict[str, Any]", error.errors(include_url=False, include_context=False)[0])
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return PayloadError(str(first["msg"]), path=path, subject=subject)


def _safely(error: Exception) -> str:
    try:
        return str(error)[:200]
    except Exception:
        return "[its __str__ raised]"


def _without_prose(schema: Any) -> Any:
    if isinstance(schema, dict):
        items = cast("dict[str, Any]", schema).items()
        # a property may be called "title": only the keyword's text value is prose
        prose = ("title", "description")
        return {key: _without_prose(item) for key, item in items if not (key in prose and isinstance(item, str))}
    if isinstance(schema, list):
        return [_without_prose(item) for item in cast("list[Any]", schema)]
    return schema
