"""Names and keys: what may stand in a column that other rows, metrics and command lines refer to.

Invariant: names are data and never become SQL identifiers, so nothing is truncated or folded. A name is chosen by the
programmer (UsageError), a key comes with a call (PayloadError). Absent on purpose: Unicode normalisation; keys are
compared byte for byte.
"""

from __future__ import annotations

import re
import unicodedata
from typing import cast

from chimpbase._core.errors import PayloadError, UsageError

MAX_NAME_LENGTH = 128
MAX_KEY_BYTES = 512

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_FORBIDDEN_IN_NAME = re.compile(r"[^A-Za-z0-9_.:/-]")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it may name a `kind` ("queue", "event", "workflow"...).

    Raises: UsageError.
    """
    given = cast(object, name)
    if not isinstance(given, str):
        raise UsageError(f"A {kind} name must be text, not {type(given).__name__}. Pass it as a string.")
    if _NAME.fullmatch(name):
        return name
    if not name:
        raise UsageError(f"A {kind} name must not be empty. Pass 1 to {MAX_NAME_LENGTH} characters.")
    if len(name) > MAX_NAME_LENGTH:
        raise UsageError(
            f"The {kind} name {name[:20]!a}... has {len(name)} characters; the limit is {MAX_NAME_LENGTH}. Shorten it."
        )
    wrong = _FORBIDDEN_IN_NAME.search(name)
    culprit = f"{wrong.group()!a}" if wrong else "a character"
    raise UsageError(f"The {kind} name {name!a} contains {culprit}; use letters, digits and _ . : / - only.")


def check_key(kind: str, key: str) -> str:
    """Return `key` if it can be stored as a `kind` ("key", "unique key", "run id"...): 1 to 512 bytes of UTF-8.

    Control characters and lone surrogates are refused: the first are invisible in every tool, the second are not text.

    Raises: PayloadError.
    """
    given = cast(object, key)
    if not isinstance(given, str):
        raise PayloadError(f"must be text, not {type(given).__name__}. Pass it as a string", subject=kind)
    if not key:
        raise PayloadError(f"must not be empty. Pass 1 to {MAX_KEY_BYTES} bytes of text", subject=kind)
    if key.isascii() and key.isprintable():
        size = len(key)
    else:
        try:
            size = len(key.encode())
        except UnicodeEncodeError as error:
            raise PayloadError(f"contains the lone surrogate {key[error.start]!a}", subject=kind) from None
        control = next((c for c in key if unicodedata.category(c) == "Cc"), None)
        if control is not None:
            raise PayloadError(f"contains the control character {control!a}", subject=kind)
    if size > MAX_KEY_BYTES:
        raise PayloadError(f"is {size} bytes long; the limit is {MAX_KEY_BYTES}. Use a hash of it", subject=kind)
    return key


#: Above every key: no key of 512 bytes is as long.
ABOVE_ALL_KEYS = "\U0010ffff" * (MAX_KEY_BYTES // 4 + 1)


def check_prefix(kind: str, prefix: str) -> str:
    """Return `prefix` if keys may begin with it; the empty one begins them all.

    Raises: PayloadError.
    """
    return prefix if prefix == "" else check_key(kind, prefix)


def after_prefix(prefix: str) -> str:
    """The first text, in the order of code points and so of UTF-8 bytes, that comes after all that begin so."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return ABOVE_ALL_KEYS
    # what comes after U+D7FF are surrogates, which are no characters
    following = 0xE000 if kept[-1] == "\ud7ff" else ord(kept[-1]) + 1
    return kept[:-1] + chr(following)
