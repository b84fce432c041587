"""Offspring: a child process that waits to be told what to run, and leaves when this process has gone.

Invariant: the write end of its pipe is held by this process alone, so the kernel closes it whatever ends this process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Self


class Offspring:
    """One child. Made by `spawn`; told once; stopped in any state."""

    def __init__(self, process: Process, line: int) -> None:
        self._process = process
        self._line = line

    @classmethod
    async def spawn(cls) -> Self:
        """Start a child that imports this package and waits."""
        read, write = os.pipe()
        # a terminal sends Ctrl-C to both; the child ignores it from its first instruction on, and is told by us
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            arguments = [sys.executable, "-m", "chimpbase.cli.child", str(read)]
            process = await asyncio.create_subprocess_exec(*arguments, pass_fds=(read,))
        except BaseException:
            os.close(write)
            raise
        finally:
            signal.signal(signal.SIGINT, before)
            os.close(read)
        return cls(process, write)

    @property
    def waits(self) -> bool:
        """Whether it is alive, as one must be that is to be told something."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def gave_up(self) -> bool:
        """Whether it ended with an exit code that says it failed, and by no signal."""
        return (self._process.returncode or 0) > 0

    @property
    def how_it_ended(self) -> str:
        """Its end in words, such as "ended with exit code 1"."""
        code = self._process.returncode
        if code is None:
            return "runs"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say what to run. A child that has died meanwhile is found out by `wait`."""
        try:
            os.write(self._line, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return

    async def wait(self) -> None:
        """Return once it has ended."""
        await self._process.wait()

    async def stop(self, *, patience: timedelta) -> None:
        """Ask it to end, and make it end when it has not within `patience`. Idempotent."""
        try:
            if self.waits:
                self._process.terminate()
                async with asyncio.timeout(patience.total_seconds()):
                    await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            if self._line >= 0:
                os.close(self._line)
                self._line = -1
