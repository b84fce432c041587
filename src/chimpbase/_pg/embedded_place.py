"""Where an embedded PostgreSQL keeps its things: data, lock, log and socket.

    project/.chimpbase/pg         the data directory, or a symbolic link to it
    project/.chimpbase/pg.lock    held while a server runs there
    project/.chimpbase/pg.log     what the server wrote; pg.log.1 is the one before
    /tmp/chimpbase-<uid>-<hash>   0700, holds the socket (a socket path is limited to about 100 bytes)

Rule for root: the server runs under an account that is not root, which must be able to reach its data. Where a
directory above the project is closed to it (a project under /root is the normal case in containers), the data lies in a
directory of its own under /var/lib/chimpbase, or under the temporary directory when the project does, and `pg` is a
link to it. CHIMPBASE_STATE_DIR names another root for these. The link is the only key: who deletes it starts with an
empty database, and the old data stays where it was until somebody removes it; under the temporary directory the next
start does. No existing directory's mode is ever changed.

Invariant: the runtime directory is ours alone (owner, mode, not a link), so nobody else can put a socket there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chimpbase._core.errors import ConfigError
from chimpbase._pg.embedded_account import Account, choose_account
from chimpbase._pg.embedded_postmaster import DirectoryLock, is_serving, read_postmaster

PORT: Final = 5432
_SOCKET: Final = f".s.PGSQL.{PORT}"
_SOCKET_PATH_BYTES: Final = 103  # macOS; Linux has 107
_STATE_ROOT: Final = Path("/var/lib/chimpbase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The paths one data directory is known by. `pointer` is what the caller named, links above it resolved."""

    pointer: Path
    lock: Path
    log: Path

    @property
    def data(self) -> Path:
        """Where the data is now; the same as `pointer` unless that is a link."""
        return self.pointer.resolve()


def open_place(directory: Path) -> Place:
    """The place for a data directory; makes the directories above it.

    Raises: ConfigError when they cannot be made.
    """
    directory = directory.absolute()
    try:
        make_directories(directory.parent)
        parent = directory.parent.resolve(strict=True)
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise ConfigError(
            f"Cannot make {directory.parent} for the embedded PostgreSQL: {error.strerror}. Make the directory above "
            "it writable for this account, name another data directory, or set DATABASE_URL.",
            key="DATABASE_URL",
        ) from error
    name = directory.name
    return Place(pointer=parent / name, lock=parent / f"{name}.lock", log=parent / f"{name}.log")


def settle(place: Place, *, environ: Mapping[str, str]) -> tuple[Path, Account]:
    """Decide where the data lies, or is to be made, and which account it belongs to. Call it with the lock held.

    Raises: ConfigError when data that is already there cannot be reached by that account.
    """
    data = place.data
    account = choose_account(data)
    if account.reaches(data):
        return data, account
    if data.is_dir() and any(data.iterdir()):
        raise ConfigError(
            f"The data directory {data} cannot be reached by the account {account.name}, which PostgreSQL runs as "
            "because it does not run as root. Move it to where that account can search every directory above it, or "
            "set DATABASE_URL."
        )
    return _new_state_directory(place, account, environ) / place.pointer.name, account


def commit_place(place: Place, data: Path) -> None:
    """Make the pointer lead to `data`, in one step. Nothing to do where the data lies at the pointer itself."""
    if data in {place.pointer, place.data}:
        return
    link = place.pointer.with_name(f".{place.pointer.name}.link-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(data)
    if place.pointer.is_dir() and not place.pointer.is_symlink():
        # settle() saw that it is empty
        place.pointer.rmdir()
    link.replace(place.pointer)


def runtime_directory(lock: DirectoryLock, *, account: Account, environ: Mapping[str, str]) -> Path:
    """The directory for the socket, made or verified, without leftovers of a dead server. Call it with the lock held.

    Raises: ConfigError when no directory is short enough, reachable for the account and ours.
    """
    # the inode of the lock file is in the name: a server still running on a deleted project never shares our socket
    info = os.fstat(lock.fd)
    identity = f"{lock.path}\0{info.st_dev}\0{info.st_ino}"
    name = f"chimpbase-{account.uid}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    # where the last owner had it: another shell may have another TMPDIR, and clients look where it was
    noted = Path(lock.read_note() or "")
    bases = [noted.parent] if noted.name == name and noted.parent.is_dir() else []
    refused: list[str] = []
    for base in (*bases, *_runtime_bases(environ)):
        directory = base / name
        reason = _unfit(directory, account) or _claim(directory, account)
        if reason is None:
            for leftover in (_SOCKET, f"{_SOCKET}.lock"):
                (directory / leftover).unlink(missing_ok=True)
            lock.write_note(str(directory))
            return directory
        refused.append(f"{directory} {reason}")
    raise ConfigError(
        f"No directory for the PostgreSQL socket: {'; '.join(refused)}. Set TMPDIR to a short, writable directory.",
        key="TMPDIR",
    )


def is_relocated(place: Place) -> bool:
    """Whether the data lies in a state directory made by this module, which then belongs to that data alone."""
    return place.pointer.is_symlink() and (place.data.parent / "origin").is_file()


def make_directories(path: Path) -> None:
    """Make what is missing of `path`; as root open for search whatever the umask, and owned like the one above."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(missing):
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        if os.geteuid() == 0:
            directory.chmod(0o755)
            owner = directory.parent.stat()
            os.chown(directory, owner.st_uid, owner.st_gid)


def _runtime_bases(environ: Mapping[str, str]) -> Iterator[Path]:
    # the temporary directory first: a login's XDG_RUNTIME_DIR is deleted at logout under a server that still runs
    bases = (environ.get("TMPDIR") or tempfile.gettempdir(), environ.get("XDG_RUNTIME_DIR"), "/tmp")  # noqa: S108
    return (path for path in dict.fromkeys(Path(base).absolute() for base in bases if base) if path.is_dir())


def _unfit(directory: Path, account: Account) -> str | None:
    if len(os.fsencode(directory / _SOCKET)) > _SOCKET_PATH_BYTES:
        return f"is too long for a socket (limit {_SOCKET_PATH_BYTES} bytes)"
    if "," in str(directory) or '"' in str(directory):
        return "has a character that PostgreSQL takes for a separator"
    return None if account.reaches(directory) else f"cannot be reached by the account {account.name}"


def _claim(directory: Path, account: Account) -> str | None:
    """Make the directory ours, or say why it is not."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        info = directory.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid not in {account.uid, os.geteuid()} or info.st_mode & 0o077:
            return "exists and is not ours"
        # also after a kill between mkdir and chown
        account.give(directory)
    except OSError as error:
        return f"cannot be made: {error.strerror}"
    return None


def _new_state_directory(place: Place, account: Account, environ: Mapping[str, str]) -> Path:
    temporary = Path(environ.get("TMPDIR") or tempfile.gettempdir()).resolve()
    set_root = environ.get("CHIMPBASE_STATE_DIR")
    roots = [Path(set_root)] if set_root else [_STATE_ROOT]
    if not set_root and place.pointer.is_relative_to(temporary):
        roots = [temporary, Path("/tmp"), _STATE_ROOT]  # noqa: S108
    project = place.pointer.parent.parent if place.pointer.parent.name == ".chimpbase" else place.pointer.parent
    prefix = "chimpbase-" + (re.sub(r"[^A-Za-z0-9._]+", "-", project.name)[:40] or "root") + "-"
    for root in roots:
        with contextlib.suppress(OSError):
            if root == temporary:
                _sweep_state(root)
            make_directories(root)
            directory = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
            if account.reaches(directory):
                (directory / "origin").write_text(f"{place.pointer}\n", encoding="utf-8")
                directory.chmod(0o755)
                return directory
            directory.rmdir()
    raise ConfigError(
        f"PostgreSQL runs as the account {account.name}, because it does not run as root, and that account can reach "
        f"neither {place.pointer.parent} nor {', '.join(map(str, roots))}. Set CHIMPBASE_STATE_DIR to a directory it "
        "can reach, or set DATABASE_URL.",
        key="CHIMPBASE_STATE_DIR",
    )


def _sweep_state(temporary: Path) -> None:
    """Delete throw-away data that nothing points to any more, such as that of a test run that was cleaned up."""
    for origin in temporary.glob("chimpbase-*/origin"):
        directory = origin.parent
        with contextlib.suppress(OSError, ConfigError):
            pointer = Path(origin.read_text(encoding="utf-8").removesuffix("\n"))
            data = directory / pointer.name
            is_ours = not directory.is_symlink() and directory.stat().st_uid == os.geteuid()
            if not is_ours or not pointer.is_relative_to(temporary) or pointer.resolve() == data:
                continue
            if (postmaster := read_postmaster(data)) and is_serving(postmaster, data):
                continue
            # a start that has not made its link so far holds the lock
            path = pointer.with_name(f"{pointer.name}.lock")
            lock = DirectoryLock.take(path) if path.exists() else None
            if lock or not path.exists():
                shutil.rmtree(directory, ignore_errors=True)
            if lock:
                lock.release()
