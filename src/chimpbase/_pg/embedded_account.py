"""Which account the embedded PostgreSQL runs as, and what that account can reach.

PostgreSQL refuses to run as root. An ordinary process runs the server as itself. Root picks, in this order: the owner
of the data directory that is already there, the owner of the nearest existing directory above it (a project under
somebody's home), and then one of `nobody`, `postgres`, `daemon`.

Invariant: nothing here changes an account, a group or the mode of a directory. Reach is read from mode bits alone;
access lists are not consulted, so a path opened only by one counts as out of reach.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from chimpbase._core.errors import ConfigError

_READ, _WRITE, _SEARCH = 4, 2, 1
_SPARE_ACCOUNTS = ("nobody", "postgres", "daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A uid and gid the server runs under; `dropped` when this process is root and the account is another one."""

    uid: int
    gid: int
    name: str
    dropped: bool

    def reaches(self, path: Path) -> bool:
        """Whether every existing directory above `path` may be searched by this account."""
        if not self.dropped:
            return True
        return all(self._allows(parent, _SEARCH) for parent in path.parents if parent.exists())

    def reads(self, path: Path) -> bool:
        """Whether `path` exists, is in reach, and may be read; directories and programs also searched or executed."""
        if not self.dropped:
            return path.exists()
        if not self.reaches(path) or not path.exists():
            return False
        runs = path.is_dir() or path.stat().st_mode & 0o111
        return self._allows(path, _READ | _SEARCH if runs else _READ)

    def writes(self, path: Path) -> bool:
        """Whether entries can be made in the directory `path`; False too on a read-only file system."""
        return os.access(path, os.W_OK | os.X_OK) and (not self.dropped or self._allows(path, _WRITE | _SEARCH))

    def give(self, path: Path) -> None:
        """Make `path`, which this process has just created, belong to the account."""
        if self.dropped:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def give_like_parent(self, path: Path) -> None:
        """Make a new `path` belong to the account when the directory it lies in does: no root file is left there."""
        if self.dropped and path.parent.stat().st_uid == self.uid:
            self.give(path)

    def _allows(self, path: Path, wanted: int) -> bool:
        info = path.stat()
        shift = 6 if info.st_uid == self.uid else 3 if info.st_gid == self.gid else 0
        return (info.st_mode >> shift) & wanted == wanted


def choose_account(data: Path) -> Account:
    """The account for the server of data directory `data`, which need not exist.

    Raises: ConfigError when this process is root and the machine has no other account to drop to.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(uid=uid, gid=os.getegid(), name=_name(uid), dropped=False)
    if data.exists() and (owner := data.stat()).st_uid != 0:
        # PostgreSQL runs only as the owner of its data; it needs no passwd entry for that, unlike initdb
        entry = _entry(owner.st_uid)
        gid = entry.pw_gid if entry else owner.st_gid
        return Account(uid=owner.st_uid, gid=gid, name=_name(owner.st_uid), dropped=True)
    nearest = next(parent for parent in data.parents if parent.exists())
    for entry in (_entry(nearest.stat().st_uid), *map(_named, _SPARE_ACCOUNTS)):
        if entry and entry.pw_uid != 0:
            return Account(uid=entry.pw_uid, gid=entry.pw_gid, name=entry.pw_name, dropped=True)
    raise ConfigError(
        f"PostgreSQL does not run as root, and this machine has none of the accounts {', '.join(_SPARE_ACCOUNTS)} to "
        "drop to. Add one, run as an ordinary user, or set DATABASE_URL.",
        key="DATABASE_URL",
    )


def has_passwd_entry(account: Account) -> bool:
    """Whether the account has a name on this machine; initdb insists on one."""
    return _entry(account.uid) is not None


def _entry(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _named(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _name(uid: int) -> str:
    entry = _entry(uid)
    return entry.pw_name if entry else f"uid {uid}"
