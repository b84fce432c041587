"""Tracebacks as their reader needs them: the frames of the application, without ours and the interpreter's.

Invariant: nothing here raises, whatever an exception's `__str__` does. Absent on purpose: writing them anywhere.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

import chimpbase

_OURS = str(Path(chimpbase.__file__).parent) + "/"
_INSTALLED = tuple({sysconfig.get_path(kind) + "/" for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_MOST_FRAMES = 30


def trimmed(error: BaseException) -> str:
    """The traceback of `error` and of its causes, as Python writes it, with the application's frames only.

    An error that never passed through the application keeps all its frames: then it is ours, and they are the story.
    """
    try:
        story = traceback.TracebackException.from_exception(error, limit=-200)
        for one in _chain(story):
            mine = _application(list(one.stack))
            if mine:
                one.stack = traceback.StackSummary.from_list(mine[-_MOST_FRAMES:])
            elif isinstance(error, SyntaxError):
                one.stack.clear()  # the file that does not parse is in the error itself
        return "".join(story.format()).rstrip("\n")
    except BaseException:
        return f"{type(error).__name__} (its traceback could not be written)"


def whole(error: BaseException) -> str:
    """The whole traceback of `error`, for logs that machines read and for `--debug`."""
    try:
        return "".join(traceback.format_exception(error, limit=-200)).rstrip("\n")
    except BaseException:
        return f"{type(error).__name__} (its traceback could not be written)"


def _application(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """From the first frame of the application on, without ours: what led to it says nothing to its author."""
    for index, frame in enumerate(frames):
        if not frame.filename.startswith((_OURS, "<frozen ", *_INSTALLED)):
            return [later for later in frames[index:] if not later.filename.startswith((_OURS, "<frozen "))]
    return []


def _chain(story: traceback.TracebackException) -> Iterable[traceback.TracebackException]:
    waiting = [story]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        waiting += one.exceptions or []
