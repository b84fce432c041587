"""Makes and drops whole databases, for those that need a fresh one. Their names are ours, never a user's."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from chimpbase._pg.db import Db

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


async def create_database(db: Db, name: str, *, template: str) -> None:
    """Copy `template`, to which nobody may be connected, into a new database.

    Raises:
        DatabaseError: it exists, the template is in use, or the user may not.
    """
    await db.execute(f"create database {_checked(name)} template {_checked(template)}")


async def drop_database(db: Db, name: str) -> None:
    """Drop a database, with everybody's connections to it, if it is there."""
    await db.execute(f"drop database if exists {_checked(name)} with (force)")


def in_database(url: str, name: str) -> str:
    """The same server's URL for another of its databases."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{_checked(name)}"))


def _checked(name: str) -> str:
    assert _NAME.fullmatch(name), name  # names stand in the statement itself, for it takes no parameters
    return name
