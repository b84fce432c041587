"""A fleet: real processes running one app on one database, that a test starts, stalls and kills."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import chimpbase

_ROOT = Path(__file__).resolve().parents[2]
_PATH = f"{Path(chimpbase.__file__).parents[1]}{os.pathsep}{_ROOT}"
_PACE: dict[str, Any] = {"lease": 1, "poll": 0.1, "grace": 2}


class Member:
    """One process of the fleet. What it logged is in `log`, a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self.log = process, log
        self.was_told = False  # to end; who ends all the same has ended by itself

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self, *, within_s: float = 20) -> None:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
        assert line == b"ready\n", f"it said {line!r} and logged {self.log.read_text()}"

    def stall(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.alive:
            self.was_told = True
            with suppress(ProcessLookupError):  # it ended by itself, and nobody has waited for it yet
                self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.was_told = self.was_told or self.alive
        self._process.terminate()
        return await asyncio.wait_for(self._process.wait(), 20)

    async def died(self, *, within_s: float = 20) -> int:
        """Wait for it to end by itself; the exit code, negative for a signal."""
        return await asyncio.wait_for(self._process.wait(), within_s)


class Fleet:
    """Starts members. All that are left when the test ends are killed."""

    def __init__(self, module: str, dsn: str, directory: Path) -> None:
        self.module, self.dsn, self.directory = module, dsn, directory
        self.members: list[Member] = []

    async def launch(self, *, host: str | None = None, **order: Any) -> Member:
        """Start a process without waiting until it works. Keywords that `member` does not know are settings.

        `environ` is added to its environment.
        """
        environ = order.get("environ", {})
        told = self.order(host, order)
        log = self.directory / f"member-{len(self.members)}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.stories.member", self.module, self.dsn, json.dumps(told)),
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": _PATH, **environ},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
        member = Member(process, log)
        self.members.append(member)
        return member

    def order(self, host: str | None, given: dict[str, Any]) -> dict[str, Any]:
        """What a member is told, of keywords as `launch` takes them."""
        told = {name: given[name] for name in ("die_after", "die_in", "memory_mb") if name in given}
        settings = {name: value for name, value in given.items() if name not in told and name != "environ"}
        return {**told, "host": host, "settings": {**_PACE, **settings}}

    def redirect(self, dsn: str) -> None:
        """Members that start from now on take this way to the database."""
        self.dsn = dsn

    async def start(self, **order: Any) -> Member:
        """Start a process and wait until it works."""
        member = await self.launch(**order)
        await member.ready()
        return member

    async def end(self) -> None:
        for member in self.members:
            await member.kill()


@asynccontextmanager
async def fleet_of(module: str, dsn: str, directory: Path) -> AsyncIterator[Fleet]:
    """A fleet running the `app` of that module."""
    fleet = Fleet(module, dsn, directory)
    try:
        yield fleet
    finally:
        await fleet.end()
