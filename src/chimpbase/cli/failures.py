"""Failures: what went wrong, as a sentence with the next move and an exit code.

Invariant: a user of the command line sees a traceback only of their own code, or of ours when they ask for it.
"""

from __future__ import annotations

import errno
import sys
from typing import Final

from chimpbase import errors
from chimpbase.cli.logs import visible
from chimpbase.cli.tracebacks import trimmed, whole

FAILURE: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3


class CommandFailed(Exception):
    """A command could not do what it was asked. The message is for the user; `code` is the exit code."""

    def __init__(self, message: str, *, code: int = FAILURE) -> None:
        self.code = code
        super().__init__(message)


def say(sentence: str) -> None:
    """Tell the user on standard error, with control characters written out."""
    print(visible(sentence), file=sys.stderr, flush=True)


def report(error: BaseException, *, debug: bool) -> int:
    """Tell the user of an error; the exit code that follows from it."""
    if debug:
        say(whole(error))
        return code_of(error)
    sentence = sentence_for(error)
    if sentence is None:
        say(trimmed(error))
    else:
        say(f"chimpbase: {sentence}")
    return code_of(error)


def sentence_for(error: BaseException) -> str | None:
    """What to say instead of a traceback; None when only the traceback tells."""
    match error:
        case errors.Unreachable():
            return f"{error} Start it, or correct DATABASE_URL; `chimpbase config` shows where it comes from."
        case CommandFailed() | errors.ChimpbaseError():
            return str(error)
        case OSError() if error.errno == errno.EADDRINUSE:
            return f"{error.strerror or error}. Stop what listens there, or choose another port with --port."
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}."
        case _:
            return None


def code_of(error: BaseException) -> int:
    """The exit code for an error."""
    match error:
        case CommandFailed():
            return error.code
        case errors.NotRegistered() | errors.NotFound():
            return NOT_FOUND
        case errors.ConfigError():
            return USAGE
        case _:
            return FAILURE
