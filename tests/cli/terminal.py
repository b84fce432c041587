"""A command on a terminal of its own, as in a window: what it says there, and the keys that are pressed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cli.command import environment

# The terminal must be the controlling one, or Ctrl-C is a character like any other.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "chimpbase", *sys.argv[1:]])
"""


class Terminal:
    """A command line that runs in a window until the block is left."""

    def __init__(self, *words: str, cwd: Path, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._said = bytearray()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *words],
            cwd=cwd,
            env=environment(env),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)
        print(self.text)  # shown when the test fails

    @property
    def text(self) -> str:
        """All that was said so far."""
        return self._said.decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # nobody has the other end any more
                return
            if not part:
                return
            self._said.extend(part)
