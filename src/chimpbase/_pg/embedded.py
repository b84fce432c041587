"""The embedded PostgreSQL: the server an app gets when no DATABASE_URL is given.

One data directory has at most one server. The process that starts it owns it: the server is its child, is stopped with
it, and on Linux does not outlive it even when it is killed. Every other process that names the same directory connects
to that server. When the owner goes, the server goes; whoever then calls `ensure` first becomes the next owner, and the
rest connect again.

    start ──► lock free ──► keeper: find programs, make data if there is none, fork, wait ──► owned
          └─► lock held ──► server ready and answering ──► connected, not owned
                        └─► starting, stopping: look again in 5 ms

Invariant: only the holder of the lock touches the data directory or starts a server, and a living server holds the
lock.

Deliberately absent: TCP, Windows, passwords (whoever can enter the 0700 socket directory is trusted), major upgrades,
and any pool: a `dsn` is all that leaves this module. Needs a POSIX system; import it only when there is no
DATABASE_URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from chimpbase._core.errors import ConfigError, NotStarted, Unreachable, WrongState
from chimpbase._pg.embedded_cluster import DATABASE, USER, remove_cluster
from chimpbase._pg.embedded_keeper import POLL_S, START_TIMEOUT_S, Keeper, Order, log_tail
from chimpbase._pg.embedded_place import PORT, Place, open_place
from chimpbase._pg.embedded_postmaster import DirectoryLock, Postmaster, is_orphan, is_serving, read_postmaster
from chimpbase._pg.embedded_probe import NoAnswer, probe

_LOOK_AGAIN_S: Final = 0.005
_STOP_GRACE_S: Final = 10.0
_QUIT_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """A server that answers: `keeper` when this process started it, `orphan` when it took over one without a parent."""

    sockets: Path
    port: int
    version: str
    keeper: Keeper | None = None
    orphan: Postmaster | None = None


class EmbeddedServer:
    """A running PostgreSQL; made by `start`, safe to use from several tasks of one event loop.

    Example:
        async with await EmbeddedServer.start(Path(".chimpbase/pg")) as server:
            connection = await asyncpg.connect(server.dsn)
    """

    def __init__(self, order: Order, directory: Path) -> None:
        self._order, self._directory = order, directory
        self._server: _Server | None = None
        self._stopped = False
        self._busy = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        data_directory: Path,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> EmbeddedServer:
        """Start the server of `data_directory`, made when it is not there, or connect to the one that runs.

        `binaries` is a bin directory (see `find_binaries`); `settings` are PostgreSQL settings over the defaults, and
        have no effect on a server that another process owns; `environ` stands for the process environment. About 50 ms,
        or half a second when the data directory must be made. Cancelling it ends what it had begun.

        Raises:
            ConfigError: the directory, the programs, the account or a setting do not allow a server.
            Unreachable: a server is there, and is neither ready nor gone after two minutes.
        """
        env = os.environ if environ is None else environ
        place = open_place(data_directory)
        order = Order(place=place, binaries=binaries, settings=dict(settings or {}), environ=dict(env))
        self = cls(order, data_directory)
        self._server = await self._acquire()
        return self

    @property
    def dsn(self) -> str:
        """Where the server listens now, for asyncpg and psql alike. Read it again after `ensure`: it may have moved."""
        server = self._current()
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(server.sockets))}&port={server.port}"

    @property
    def owned(self) -> bool:
        """Whether this process started the server, or took over an orphan, and will stop it."""
        server = self._current()
        return server.keeper is not None or server.orphan is not None

    @property
    def version(self) -> str:
        """PostgreSQL's version, such as "18.6"."""
        return self._current().version

    @property
    def data_directory(self) -> Path:
        """Where the data lies, links resolved. For root this may be outside the project."""
        return self._order.place.data

    @property
    def log_file(self) -> Path:
        """What the server writes; the one before it, if any, has `.1` added."""
        return self._order.place.log

    async def ensure(self) -> None:
        """Make sure a server answers: wait for one that recovers, start one where there is none, else do nothing.

        For a caller that cannot connect. Idempotent; may be called by any number of tasks and processes at once, of
        which one starts the server. Afterwards `dsn` and `owned` may have changed.

        Raises: as `start`; NotStarted after `stop`.
        """
        async with self._busy:
            server = self._current()
            if not await self._answers(server):
                await self._end(server)
                self._server = await self._acquire()

    async def stop(self) -> None:
        """Stop the server if this process owns it, else only let go of it. Idempotent.

        Open transactions are rolled back and clients disconnected (a fast shutdown); after ten seconds it is an
        immediate one, which loses nothing committed but makes the next start recover.
        """
        async with self._busy:
            self._stopped = True
            if self._server:
                server, self._server = self._server, None
                await self._end(server)

    async def destroy(self) -> None:
        """Stop the server and delete its data, its log and its pointer.

        Raises: WrongState when another process uses that server: nothing is deleted.
        """
        await self.stop()
        lock = DirectoryLock.take(self._order.place.lock)
        if lock is None:
            raise WrongState(
                f"The data directory {self._directory} is used by another process. Stop that one first.",
                state="running",
                wanted="stopped",
            )
        with lock:
            await asyncio.to_thread(remove_cluster, self._order.place)
            lock.path.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _current(self) -> _Server:
        if self._server is None or self._stopped:
            raise NotStarted(f"The embedded PostgreSQL of {self._directory} was stopped. Start a new one.")
        return self._server

    async def _acquire(self) -> _Server:
        place, deadline = self._order.place, time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            lock = DirectoryLock.take(place.lock)
            if lock and not _is_served_by_a_stranger(place):
                return await self._launch(lock)
            if lock:
                lock.release()
            server = await self._connect(place)
            if server:
                return server
            await asyncio.sleep(_LOOK_AGAIN_S)
        raise Unreachable(
            f"The data directory {self._directory} is in use, and its server did not answer within "
            f"{START_TIMEOUT_S:.0f} s{log_tail(place.log)}"
        )

    async def _launch(self, lock: DirectoryLock) -> _Server:
        keeper = Keeper(self._order, lock)
        keeper.start()
        try:
            await _until(lambda: keeper.settled)
            if keeper.started is None:
                raise keeper.failure or Unreachable("The start of PostgreSQL was given up.")
            started = keeper.started
        except asyncio.CancelledError:
            keeper.abort()
            keeper.signal(signal.SIGINT)
            await _until(lambda: keeper.gone)
            raise
        return _Server(sockets=started.sockets, port=PORT, version=started.version, keeper=keeper)

    async def _connect(self, place: Place) -> _Server | None:
        """The server that another process runs, or None while it takes no connections."""
        data = place.data
        postmaster = read_postmaster(data)
        if postmaster is None or not postmaster.ready or postmaster.socket_directory is None:
            return None
        version = await probe(postmaster.socket_directory, port=postmaster.port, data=data)
        if isinstance(version, NoAnswer):
            return None
        orphan = None
        if sys.platform != "linux" and await asyncio.to_thread(is_orphan, postmaster):
            orphan = postmaster
        return _Server(sockets=postmaster.socket_directory, port=postmaster.port, version=version, orphan=orphan)

    async def _answers(self, server: _Server) -> bool:
        """Whether the server takes connections; waits for one of ours that is alive and recovering."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while server.keeper is None or not server.keeper.gone:
            version = await probe(server.sockets, port=server.port, data=self.data_directory)
            if isinstance(version, str):
                return True
            if server.keeper is None or version is NoAnswer.NO_SOCKET or time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_AGAIN_S)
        return False

    async def _end(self, server: _Server) -> None:
        if not (server.orphan or (server.keeper and server.keeper.is_here)):
            return
        for number, grace_s in (
            (signal.SIGINT, _STOP_GRACE_S),
            (signal.SIGQUIT, _QUIT_GRACE_S),
            (signal.SIGKILL, 60.0),
        ):
            if server.keeper:
                server.keeper.signal(number)
                if await _until(_gone(server.keeper), within_s=grace_s):
                    break
            elif server.orphan:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.orphan.pid, number)
                if await _until(_not_serving(server.orphan, self.data_directory), within_s=grace_s):
                    break
        self._forget_sockets(server)

    def _forget_sockets(self, server: _Server) -> None:
        """Remove the empty socket directory, unless another process is already starting on it."""
        with contextlib.suppress(OSError, ConfigError):
            lock = DirectoryLock.take(self._order.place.lock)
            if lock:
                with lock:
                    server.sockets.rmdir()


async def _until(condition: Callable[[], bool], *, within_s: float | None = None) -> bool:
    """Look every few milliseconds; True once it holds, False when the time is up."""
    deadline = None if within_s is None else time.monotonic() + within_s
    while not condition():
        if deadline is not None and time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _gone(keeper: Keeper) -> Callable[[], bool]:
    return lambda: keeper.gone


def _not_serving(postmaster: Postmaster, data: Path) -> Callable[[], bool]:
    return lambda: not is_serving(postmaster, data)


def _is_served_by_a_stranger(place: Place) -> bool:
    """Whether a server runs there without the lock: somebody started it by hand."""
    postmaster = read_postmaster(place.data)
    return postmaster is not None and is_serving(postmaster, place.data)
