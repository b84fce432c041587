"""A herd: a fleet whose members are forked from a process that has imported everything, so that one is born at once.

A member that needs another environment (a preloaded library) is started the long way.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from tests.stories import member as member_module
from tests.stories.fleet import Fleet, Member
from tests.waiting import until

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.herd", "tests.faults.flood", "tests.faults.victim", "asyncpg", "uvloop"])


class _Process:
    """A forked process with the face of one that asyncio started."""

    def __init__(self, process: Any, line: Connection) -> None:
        self._process, self._line = process, line

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def stdout(self) -> _Process:
        return self

    async def readline(self) -> bytes:
        await until(lambda: self._line.poll() or self.returncode is not None, deadline_s=60)
        try:
            return self._line.recv_bytes()
        except EOFError:
            return b""

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        await until(lambda: self.returncode is not None, deadline_s=60)
        return self.returncode or 0


class Herd(Fleet):
    """See `Fleet`."""

    async def launch(self, *, host: str | None = None, **order: Any) -> Member:
        environ: dict[str, str] = order.get("environ", {})
        if "LD_PRELOAD" in environ:
            return await super().launch(host=host, **order)
        told, directory = self.order(host, order), self.directory
        log = directory / f"member-{len(self.members)}.log"
        log.touch()  # it may die before it opens it
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(
            target=_live, args=(self.module, self.dsn, told, environ, str(log), theirs), daemon=True
        )
        await asyncio.to_thread(process.start)
        theirs.close()
        member = Member(cast("asyncio.subprocess.Process", _Process(process, ours)), log)
        self.members.append(member)
        return member


def _live(module: str, dsn: str, order: dict[str, Any], environ: dict[str, str], log: str, line: Connection) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    os.chdir(Path(log).parent)
    os.environ.update(environ)
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s", stream=sys.stderr, force=True)
    member_module.run(module, dsn, order, on_ready=lambda: line.send_bytes(b"ready\n"))
    os._exit(0)
