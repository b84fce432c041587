"""Text that can always be stored: errors, tracebacks and reasons on their way to a column.

Invariant: whatever goes in, what comes out is valid UTF-8 without U+0000 and within its limit, and nothing here raises:
the failure path must never fail. Absent on purpose: source lines in tracebacks (they would be read from disk), and any
use for payloads, which are refused, never mended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType
from typing import cast

MAX_STORED_BYTES = 8192
MARKER = " ... [cut]"

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MESSAGE_BYTES = 2048
_FRAMES = 20
_CHAIN = 5
_MEMBERS = 5


def scrub(text: str, *, limit_bytes: int = MAX_STORED_BYTES) -> str:
    """Return `text` as PostgreSQL can store it: U+0000 and lone surrogates become U+FFFD, the rest is cut off.

    The result is at most `limit_bytes` of UTF-8, cut between characters, and then ends in " ... [cut]".
    """
    # first by characters: a message of 10 MB must not be copied again and again
    clean = _UNSTORABLE.sub("\ufffd", text[: limit_bytes + 1])
    encoded = clean.encode()
    if len(encoded) <= limit_bytes:
        return str(clean)
    room = max(limit_bytes - len(MARKER), 0)
    return encoded[:room].decode(errors="ignore") + MARKER[: limit_bytes - room]


def describe_exception(exc: BaseException) -> str:
    """Describe `exc` for storage: type, message, causes, members of a group, and the last frames of its traceback.

    Storable whatever its `__str__`, `__repr__` or `__notes__` do; at most 8192 bytes.
    """
    try:
        return scrub("\n".join(_lines(exc)))
    except BaseException:  # the failure path must not fail, not even for a RecursionError near the end of the stack
        return "An exception that could not be described."


def describe_briefly(exc: BaseException) -> str:
    """Return one line, `package.Type: message`, storable and at most 2 kB."""
    try:
        kind = type(exc)
        module = str(kind.__module__)
        name = kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
    except BaseException:
        name = "Exception"
    return scrub(f"{name}: {message}" if (message := _message(exc)) else name, limit_bytes=_MESSAGE_BYTES)


def name_and_message(exc: BaseException, *, limit_bytes: int = _MESSAGE_BYTES) -> str:
    """Return `Type: message`, storable, with the bare name of the type: what people and rows are shown first."""
    return scrub(f"{type(exc).__name__}: {_message(exc)}", limit_bytes=limit_bytes)


def _lines(exc: BaseException) -> Iterator[str]:
    yield describe_briefly(exc)
    yield from (f"  note: {note}" for note in _notes(exc))
    yield from _members(exc, indent="  ")
    yield from _causes(exc)
    yield from _frames(exc.__traceback__)


def _message(exc: BaseException) -> str:
    # a __str__ may raise anything, SystemExit included, and that is still only a bad message
    try:
        text = str(exc)
    except BaseException as second:
        return f"[its __str__ raised {type(second).__name__}]"
    # a subclass of str could still misbehave in any method; str.__str__ takes the characters alone
    return str.__str__(text)[: _MESSAGE_BYTES + 1]


def _notes(exc: BaseException) -> list[str]:
    notes: object = getattr(exc, "__notes__", None)
    if not isinstance(notes, list):
        return []
    return [scrub(note, limit_bytes=400) for note in cast(list[object], notes)[:_MEMBERS] if isinstance(note, str)]


def _members(exc: BaseException, *, indent: str) -> Iterator[str]:
    if not isinstance(exc, BaseExceptionGroup) or len(indent) > 2 * _CHAIN:
        return
    members = cast("BaseExceptionGroup[BaseException]", exc).exceptions
    for member in members[:_MEMBERS]:
        yield f"{indent}- {describe_briefly(member)}"
        yield from _members(member, indent=indent + "  ")
    if len(members) > _MEMBERS:
        yield f"{indent}- and {len(members) - _MEMBERS} more"


def _causes(exc: BaseException) -> Iterator[str]:
    seen = {id(exc)}
    for _ in range(_CHAIN):
        cause = exc.__cause__
        link = "caused by" if cause else "while handling"
        cause = cause or (None if exc.__suppress_context__ else exc.__context__)
        if cause is None or id(cause) in seen:
            return
        seen.add(id(cause))
        yield f"{link}: {describe_briefly(cause)}"
        yield from _frames(cause.__traceback__, most=3)
        exc = cause


def _frames(traceback: TracebackType | None, *, most: int = _FRAMES) -> list[str]:
    frames: list[str] = []
    skipped = 0
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"  at {code.co_filename}:{traceback.tb_lineno} in {code.co_qualname}")
        # drop from the middle of the stack as we go, so a RecursionError's thousand frames are never all held
        if len(frames) > 2 * most:
            skipped += len(frames) - most
            frames = frames[-most:]
        traceback = traceback.tb_next
    skipped += max(len(frames) - most, 0)
    return ([f"  ({skipped} outer frames left out)"] if skipped else []) + frames[-most:]
