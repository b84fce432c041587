"""Who is running on a data directory: the lock file beside it, and the `postmaster.pid` inside it.

The lock is a flock that the starting process takes and every server process inherits, so the kernel drops it exactly
when the last process of that server is gone, whatever killed it. Whoever gets the lock knows that no server started by
this package is alive there, and needs to trust no process id.

`postmaster.pid` tells where a running server listens, and guards against a server somebody else started by hand. Its
process id may belong to an unrelated process after a reboot or a container restart; that is judged here, by what the
process is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from chimpbase._core.errors import ConfigError

PID_FILE: Final = "postmaster.pid"
_NOTE_BYTES: Final = 4096


class DirectoryLock:
    """An exclusive flock on one file; held by this process and by every child that inherits `fd`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd

    @classmethod
    def take(cls, path: Path) -> DirectoryLock | None:
        """Take the lock, or None when somebody holds it. Never waits.

        Raises: ConfigError when the file cannot be made or opened.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                info = os.fstat(fd)
                if os.geteuid() == info.st_uid == 0 and info.st_nlink == 1:
                    # in somebody's project it must not be a file that only root can open
                    owner = path.parent.stat()
                    os.fchown(fd, owner.st_uid, owner.st_gid)
                # the directory may have been deleted and made anew since the open: then nobody else sees this file
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return cls(path, fd)
            except (BlockingIOError, FileNotFoundError):
                pass
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            raise ConfigError(
                f"Cannot lock {path}, which guards the embedded PostgreSQL: {error.strerror}. Make {path.parent} "
                "writable for this account, name another data directory, or set DATABASE_URL.",
                key="DATABASE_URL",
            ) from error
        os.close(fd)
        return None

    def read_note(self) -> str | None:
        """What the last holder of this account noted down, or None."""
        if os.fstat(self.fd).st_uid != os.geteuid():
            return None
        return os.pread(self.fd, _NOTE_BYTES, 0).decode(errors="replace").strip() or None

    def write_note(self, note: str) -> None:
        """Leave a line for the next holder."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{note}\n".encode(errors="replace"), 0)

    def release(self) -> None:
        """Close this process's hold; a running server keeps its own. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Postmaster:
    """What `postmaster.pid` says; `ready` once the server takes connections, False while it starts and while it
    stops.
    """

    pid: int
    port: int
    socket_directory: Path | None
    ready: bool


def read_postmaster(data: Path) -> Postmaster | None:
    """The contents of `postmaster.pid`, or None when there is none or it is still being written.

    Raises: ConfigError when this account may not look into the directory.
    """
    try:
        lines = (data / PID_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(
            f"Cannot look into the PostgreSQL data directory {data}: {error.strerror}. Run as the account that owns "
            "it, name another data directory, or set DATABASE_URL.",
            key="DATABASE_URL",
        ) from error
    try:
        return Postmaster(
            pid=abs(int(lines[0])),
            port=int(lines[3]),
            socket_directory=Path(lines[4]) if lines[4] else None,
            ready=len(lines) > 7 and lines[7].strip() == "ready",
        )
    except (IndexError, ValueError):
        return None


def clear_stale_pid_file(data: Path) -> None:
    """Remove a `postmaster.pid` that names a process which is no server of this directory, or that a crash left empty.

    Call it with the lock held. A dead process id is left to PostgreSQL, which also looks for shared memory in use.
    """
    path, postmaster = data / PID_FILE, read_postmaster(data)
    with contextlib.suppress(FileNotFoundError):
        is_foreign = postmaster and _is_alive(postmaster.pid) and not _serves(postmaster.pid, data)
        if is_foreign or path.stat().st_size == 0:
            path.unlink()


def is_serving(postmaster: Postmaster, data: Path) -> bool:
    """Whether that process is alive and is the PostgreSQL server of `data`."""
    return _is_alive(postmaster.pid) and _serves(postmaster.pid, data)


def is_orphan(postmaster: Postmaster) -> bool:
    """Whether the server's parent is gone. Never so on Linux, where a server does not outlive its parent."""
    return sys.platform != "linux" and _ps(postmaster.pid, "ppid=") == "1"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # alive, and of another account
        return True
    return True


def _serves(pid: int, data: Path) -> bool:
    process = Path("/proc") / str(pid)
    if process.exists():
        try:
            # a postmaster changes into its data directory, however its command line spelled it
            return (
                process.joinpath("comm").read_text().strip() == "postgres" and process.joinpath("cwd").resolve() == data
            )
        except OSError:
            # not ours to look at, so of another account, which PostgreSQL refuses for a data directory of this one
            return False
    command = _ps(pid, "command=")
    return "postgres" in command and str(data) in command


def _ps(pid: int, column: str) -> str:
    answer = subprocess.run(["ps", "-o", column, "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return answer.stdout.strip()
