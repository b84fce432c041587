"""The data directory itself: made in one step, checked before every start, and the command line its server gets.

Invariant: the name of the data directory only ever leads to a complete cluster that has the database `chimpbase`. It is
made under another name beside it and renamed, so a kill at any moment leaves leftovers, never a half-made directory. A
directory that is not understood, or of another major version, is not touched.

The server is durable (fsync and synchronous_commit on, data checksums), listens on a Unix socket only, and trusts
whoever can enter the socket's 0700 directory. Text sorts by code point (builtin C.UTF-8, or C before PostgreSQL 17): no
order that a library update could change under an index.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from chimpbase._core.errors import ConfigError
from chimpbase._pg.binaries import Binaries
from chimpbase._pg.embedded_account import Account, has_passwd_entry
from chimpbase._pg.embedded_place import PORT, Place, commit_place, is_relocated, make_directories

USER: Final = "chimpbase"
DATABASE: Final = "chimpbase"
_SETTINGS: Final[Mapping[str, str]] = {
    "cluster_name": "chimpbase",
    "jit": "off",
    "log_destination": "stderr",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "max_connections": "300",
    "max_wal_size": "1GB",
    # the default begins with a schema of the user's name, which is ours: the application's tables would go among ours
    "search_path": "public",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "unix_socket_permissions": "0700",
}
_OURS: Final = frozenset({"data_directory", "listen_addresses", "port", "unix_socket_directories"})

RunProgram = Callable[[Sequence[str | Path], str], None]


def data_major(data: Path) -> int | None:
    """The major version of the cluster in `data`, or None when there is nothing yet.

    Raises: ConfigError when the directory holds something that is no cluster, or may not be read.
    """
    try:
        return int((data / "PG_VERSION").read_text().strip())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if not os.path.lexists(data) or (data.is_dir() and not any(data.iterdir())):
            return None
    except OSError as error:
        raise ConfigError(
            f"Cannot read the PostgreSQL data directory {data}: {error.strerror}. Run as the account that owns it, "
            "name another data directory, or set DATABASE_URL."
        ) from error
    raise ConfigError(
        f"{data} is not empty and is no PostgreSQL data directory (no valid PG_VERSION). Nothing was touched. Move it "
        "away or name another data directory."
    )


def check_cluster(data: Path, *, major: int, binaries: Binaries, account: Account) -> None:
    """Refuse to start a server that could not run on `data`, in one sentence; as root, take over data that root owns.

    Raises: ConfigError for another major version, another owner, or a directory that cannot be written.
    """
    if major != binaries.major:
        raise ConfigError(
            f"{data} was made by PostgreSQL {major}, and the programs found are {binaries.version} (in "
            f"{binaries.directory}). Nothing was touched. Point CHIMPBASE_POSTGRES_BIN at the bin directory of "
            f"PostgreSQL {major}, or dump the data with it, move the directory away and restore.",
            key="CHIMPBASE_POSTGRES_BIN",
        )
    owner = data.stat().st_uid
    if owner != account.uid and not account.dropped:
        raise ConfigError(
            f"The data directory {data} belongs to uid {owner}, and this process runs as {account.name}. PostgreSQL "
            f"runs only as the owner of its data: run as that account, give it with `chown -R {account.uid} {data}`, "
            "or name another one."
        )
    if owner != account.uid:
        # the directory itself last: after a kill in between, its owner still tells that this is unfinished
        for path in data.rglob("*"):
            account.give(path)
        account.give(data)
    if not account.writes(data):
        raise ConfigError(
            f"The data directory {data} cannot be written by {account.name}. PostgreSQL cannot run on a read-only "
            "directory: make it writable, name another one, or set DATABASE_URL."
        )


def create_cluster(place: Place, data: Path, *, account: Account, binaries: Binaries, run: RunProgram) -> None:
    """Make the cluster and its database, and only then give it its name.

    `run(command, stdin)` runs a program as the account and raises when it fails. Call it with the lock held.

    Raises: ConfigError when the disk refuses, or the account has no passwd entry, which initdb needs.
    """
    if not has_passwd_entry(account):
        raise ConfigError(
            f"initdb refuses to make a data directory for {account.name}, which has no entry in /etc/passwd. Add one "
            "(in a container image: a line with that uid), or set DATABASE_URL.",
            key="DATABASE_URL",
        )
    if os.path.ismount(data):
        raise ConfigError(
            f"The data directory {data} is a mount point, which cannot be put in place whole. Mount its parent."
        )
    try:
        make_directories(data.parent)
        _sweep(data)
        unfinished = Path(tempfile.mkdtemp(prefix=_unfinished_prefix(data), dir=data.parent))
        try:
            account.give(unfinished)
            run(_initdb(unfinished, binaries), "")
            run(_single_user(unfinished, binaries), f"create database {DATABASE};\n")
            unfinished.rename(data)
            _sync(data.parent)
            commit_place(place, data)
        except BaseException:
            # a state directory that nothing points to yet holds nothing else
            shutil.rmtree(unfinished if place.data == data else data.parent, ignore_errors=True)
            raise
    except OSError as error:
        advice = "Free some space" if error.errno == errno.ENOSPC else f"Make {data.parent} writable for this account"
        raise ConfigError(
            f"Cannot make the PostgreSQL data directory {data}: {error.strerror}. {advice}, name another data "
            "directory, or set DATABASE_URL.",
            key="DATABASE_URL",
        ) from error


def server_command(
    data: Path, *, sockets: Path, binaries: Binaries, settings: Mapping[str, str]
) -> Sequence[str | Path]:
    """The command line of the server; `settings` go over the defaults.

    Raises: ConfigError for a setting that is no name, or that this package must keep for itself.
    """
    for name in settings:
        if name.lower() in _OURS or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise ConfigError(
                f"The PostgreSQL setting {name!r} cannot be given to the embedded server, which decides "
                f"{', '.join(sorted(_OURS))} itself. Remove it, or run a server of your own and set DATABASE_URL.",
                key=name,
            )
    options = [option for name, value in {**_SETTINGS, **settings}.items() for option in ("-c", f"{name}={value}")]
    return [binaries.directory / "postgres", "-D", data, "-h", "", "-p", str(PORT), "-k", sockets, *options]


def remove_cluster(place: Place) -> None:
    """Delete the data, its log and its pointer. Call it with the lock held; the lock file itself stays."""
    data, relocated = place.data, is_relocated(place)
    if place.pointer.is_symlink():
        place.pointer.unlink()
    shutil.rmtree(data, ignore_errors=True)
    if relocated:
        shutil.rmtree(data.parent, ignore_errors=True)
    for log in (place.log, place.log.with_name(f"{place.log.name}.1")):
        log.unlink(missing_ok=True)


def _initdb(data: Path, binaries: Binaries) -> Sequence[str | Path]:
    locale = ["--locale=C"]
    if binaries.major >= 17:
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    access = ["--username", USER, "--auth-local=trust", "--auth-host=reject"]
    rest = ["--encoding=UTF8", "--data-checksums", "--no-instructions"]
    return [binaries.directory / "initdb", "-D", data, *access, *locale, *rest]


def _single_user(data: Path, binaries: Binaries) -> Sequence[str | Path]:
    # without exit_on_error a failed statement still ends with exit code 0
    return [
        binaries.directory / "postgres",
        "--single",
        "-D",
        data,
        "-c",
        "exit_on_error=on",
        "-c",
        "log_checkpoints=off",
        "postgres",
    ]


def _unfinished_prefix(data: Path) -> str:
    return f".{data.name}.unfinished-"


def _sweep(data: Path) -> None:
    """Delete what starts that were killed have left; the lock says nobody works on them."""
    for leftover in data.parent.glob(f"{_unfinished_prefix(data)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
