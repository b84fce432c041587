"""The command line: starts, watches and asks an app. It prints, and turns every error into a sentence and an exit code.

Invariant: exit code 0 ok, 1 failure, 2 usage, 3 not found; 130 and 143 after a second signal. What a program reads goes
to standard output, everything else to standard error. Absent on purpose: any work of its own; it calls the app's rooms.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command, that of `sys.argv` when no arguments are given, and exit with its code."""
    from chimpbase.cli.program import run

    words = list(sys.argv[1:] if arguments is None else arguments)
    code = run(words)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read us left; what could not be written must not be reported by the interpreter either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
