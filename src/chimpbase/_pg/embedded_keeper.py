"""The keeper: one thread that starts a PostgreSQL server, and stays its parent until the server is gone.

On Linux the kernel is asked to interrupt the server when its parent dies (PR_SET_PDEATHSIG), so `kill -9` of this
process ends in a clean shutdown of the server. That signal is tied to the *thread* that forked, not to the process:
were the server forked from a pool thread, or an event loop in a thread that ends, it would be stopped with that thread.
Hence a thread of its own, which forks, then waits for the child and so also reaps it. It is a daemon thread: leaving
the program never waits for it.

Elsewhere a server outlives a killed parent, and the next start adopts it.

Everything that blocks (finding programs, copying them, initdb, the wait for readiness) happens on this thread; the
event loop only looks at `settled` and `gone`. The server gets a session of its own, so Ctrl-C on the terminal does not
reach it before the program has drained, and it inherits the directory lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from chimpbase._core.errors import ConfigError, Unreachable
from chimpbase._pg.binaries import find_binaries, readable_binaries
from chimpbase._pg.embedded_account import Account
from chimpbase._pg.embedded_cluster import check_cluster, create_cluster, data_major, server_command
from chimpbase._pg.embedded_place import Place, runtime_directory, settle
from chimpbase._pg.embedded_postmaster import DirectoryLock, clear_stale_pid_file, read_postmaster

START_TIMEOUT_S: Final = 120.0  # crash recovery replays up to max_wal_size
POLL_S: Final = 0.002
_TOOL_TIMEOUT_S: Final = 120.0
_KILL_GRACE_S: Final = 5.0
_SESSION_GRACE_S: Final = 0.5
_LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024
_LOG_TAIL_LINES: Final = 6
_PR_SET_PDEATHSIG: Final = 1
_INHERITED: Final = (
    "PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "NSS_WRAPPER_PASSWD",
    "NSS_WRAPPER_GROUP",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to start, and how: `binaries` and `settings` as the caller gave them."""

    place: Place
    binaries: Path | None
    settings: Mapping[str, str]
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A server that takes connections."""

    sockets: Path
    version: str


class Keeper:
    """Starts one server under a lock it is given, and ends when that server does."""

    def __init__(self, order: Order, lock: DirectoryLock) -> None:
        self._order, self._lock = order, lock
        self._guard = threading.Lock()
        self._aborted = False
        self._parent = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self._settled, self._gone = threading.Event(), threading.Event()
        self.started: Started | None = None
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._keep, name="chimpbase-postgres", daemon=True)

    def start(self) -> None:
        """Begin; returns at once. The lock is this keeper's from here on."""
        self._thread.start()

    @property
    def settled(self) -> bool:
        """Whether the start is over: `started` or `failure` is set."""
        return self._settled.is_set()

    @property
    def gone(self) -> bool:
        """Whether no process of this keeper is left."""
        return self._gone.is_set()

    @property
    def is_here(self) -> bool:
        """Whether this process is the server's parent, and not a fork of it."""
        return os.getpid() == self._parent

    def abort(self) -> None:
        """Give up a start that is under way; `gone` tells when it has been."""
        with self._guard:
            self._aborted = True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server unless it is gone. Does nothing in a fork of the process that owns it."""
        if self._process and not self.gone and self.is_here:
            self._process.send_signal(number)

    def _keep(self) -> None:
        try:
            with self._lock:
                try:
                    self.started = self._launch()
                finally:
                    if self.started is None:
                        self._end_leftover()
        except BaseException as error:
            self.failure = self._named(error)
        finally:
            self._settled.set()
        if self._process:
            self._process.wait()
        self._gone.set()

    def _named(self, error: BaseException) -> BaseException:
        if not isinstance(error, OSError):
            return error
        named = ConfigError(
            f"The embedded PostgreSQL cannot use {self._order.place.pointer}: {error}. Name another data directory, "
            "or set DATABASE_URL.",
            key="DATABASE_URL",
        )
        named.__cause__ = error
        return named

    def _launch(self) -> Started:
        order = self._order
        data, account = settle(order.place, environ=order.environ)
        major = data_major(data)
        binaries = find_binaries(setting=order.binaries, environ=order.environ, data_major=major)
        if major is not None:
            check_cluster(data, major=major, binaries=binaries, account=account)
        binaries = readable_binaries(binaries, account=account, environ=order.environ)
        with _open_log(order.place.log, account) as log:
            if major is None:
                create_cluster(
                    order.place,
                    data,
                    account=account,
                    binaries=binaries,
                    run=lambda command, stdin: self._run(command, stdin, log=log, account=account),
                )
            clear_stale_pid_file(data)
            sockets = self._sockets = runtime_directory(self._lock, account=account, environ=order.environ)
            command = server_command(data, sockets=sockets, binaries=binaries, settings=order.settings)
            mark = log.tell()
            process = self._spawn(command, log=log, account=account, death=signal.SIGINT)
            self._await_ready(process, data, log_mark=mark)
        return Started(sockets=sockets, version=binaries.version)

    def _await_ready(self, process: subprocess.Popen[bytes], data: Path, *, log_mark: int) -> None:
        log, deadline = self._order.place.log, time.monotonic() + START_TIMEOUT_S
        while True:
            if (code := process.poll()) is not None:
                raise ConfigError(
                    f"PostgreSQL stopped while it was starting on {data} (exit code {code}){_tail(log, log_mark)}"
                )
            postmaster = read_postmaster(data)
            # the process id: the file may still be the one of a server that was killed
            if postmaster and postmaster.pid == process.pid and postmaster.ready:
                return
            self._check_aborted()
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"PostgreSQL on {data} was not ready after {START_TIMEOUT_S:.0f} s{_tail(log, log_mark)}"
                )
            time.sleep(POLL_S)

    def _run(self, command: Sequence[str | Path], stdin: str, *, log: IO[bytes], account: Account) -> None:
        """Run a program to its end as the account. Raises: ConfigError when it fails."""
        mark = log.tell()
        process = self._spawn(command, log=log, account=account, death=signal.SIGKILL, stdin=subprocess.PIPE)
        program, deadline = Path(command[0]).name, time.monotonic() + _TOOL_TIMEOUT_S
        try:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(stdin.encode())
            while process.poll() is None:
                self._check_aborted()
                if time.monotonic() > deadline:
                    raise Unreachable(
                        f"{program} did not end within {_TOOL_TIMEOUT_S:.0f} s{_tail(self._order.place.log, mark)}"
                    )
                time.sleep(POLL_S)
            self._check_aborted()
            if process.returncode != 0:
                raise ConfigError(
                    f"{program} failed (exit code {process.returncode}){_tail(self._order.place.log, mark)}"
                )
        except BaseException:
            _end_session(process)
            raise

    def _spawn(
        self,
        command: Sequence[str | Path],
        *,
        log: IO[bytes],
        account: Account,
        death: signal.Signals,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        self._check_aborted()
        environ = {name: value for name in _INHERITED if (value := self._order.environ.get(name))}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and no word of it from a user of the app
                command,
                stdin=stdin,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**environ, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                pass_fds=(self._lock.fd,),
                preexec_fn=_die_with_this_thread(death),  # noqa: PLW1509 - it takes no lock
                user=account.uid if account.dropped else None,
                group=account.gid if account.dropped else None,
                extra_groups=[] if account.dropped else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigError(
                f"Cannot start {command[0]} as {account.name}: {error}. Check the account and the file."
            ) from error
        return self._process

    def _check_aborted(self) -> None:
        with self._guard:
            if self._aborted:
                raise Unreachable("The start of PostgreSQL was given up.")

    def _end_leftover(self) -> None:
        """End what a failed start has left: first as PostgreSQL wants it, so that it removes its shared memory."""
        process = self._process
        if process and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.send_signal(signal.SIGQUIT)
                process.wait(_KILL_GRACE_S)
            _end_session(process)
        if self._sockets:
            with contextlib.suppress(OSError):
                self._sockets.rmdir()


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and what it started, and wait, within reason, until none of them can write a file any more."""
    deadline = time.monotonic() + _SESSION_GRACE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(POLL_S)


def log_tail(log: Path) -> str:
    """The last lines of the server log, as the end of a sentence."""
    return _tail(log, 0)


def _die_with_this_thread(number: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # all of it looked up before the fork: the child of a threaded process may call next to nothing
    prctl, getppid, leave, parent = ctypes.CDLL(None).prctl, os.getppid, os._exit, os.getpid()
    value = int(number)

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, value, 0, 0, 0)
        # the parent may have died between the fork and the line above
        if getppid() != parent:
            leave(1)

    return before_exec


def _open_log(path: Path, account: Account) -> IO[bytes]:
    try:
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
        is_new = not path.exists()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if is_new:
            account.give_like_parent(path)
        log = os.fdopen(fd, "ab")
        log.seek(0, os.SEEK_END)
    except OSError as error:
        raise ConfigError(
            f"Cannot write the PostgreSQL log {path}: {error.strerror}. Make it writable or remove it."
        ) from error
    return log


def _tail(log: Path, mark: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(mark, log.stat().st_size - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    if not lines:
        return f". Nothing was written to {log}."
    return f". The last lines of {log}:\n" + "\n".join(f"    {line}" for line in lines[-_LOG_TAIL_LINES:])
