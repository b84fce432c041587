"""Foreign kinds: which driver a connection or session of the caller's needs.

A kind is told by the names of its classes and their modules, so that no library has to be installed, or imported, that
the program does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from chimpbase._core.errors import UsageError
from chimpbase._pg.foreign import Foreign, ForeignDriver
from chimpbase._pg.foreign_asyncpg import AsyncpgDriver
from chimpbase._pg.foreign_django import DjangoDriver
from chimpbase._pg.foreign_psycopg import AsyncPsycopgDriver, PsycopgDriver
from chimpbase._pg.foreign_sqlalchemy import AsyncSqlAlchemyDriver, SqlAlchemyDriver

_KINDS: Final[Mapping[tuple[str, str], Callable[[Any], ForeignDriver]]] = MappingProxyType(
    {
        ("asyncpg", "Connection"): AsyncpgDriver,
        ("asyncpg", "PoolConnectionProxy"): AsyncpgDriver,
        ("psycopg", "AsyncConnection"): AsyncPsycopgDriver,
        ("psycopg", "Connection"): PsycopgDriver,
        ("sqlalchemy", "AsyncSession"): partial(AsyncSqlAlchemyDriver, is_session=True),
        ("sqlalchemy", "AsyncConnection"): partial(AsyncSqlAlchemyDriver, is_session=False),
        ("sqlalchemy", "Session"): partial(SqlAlchemyDriver, is_session=True),
        ("sqlalchemy", "Connection"): partial(SqlAlchemyDriver, is_session=False),
        ("django", "ConnectionProxy"): DjangoDriver,
        ("django", "BaseDatabaseWrapper"): DjangoDriver,
    }
)
_SCOPED: Final = frozenset({("sqlalchemy", "scoped_session"), ("sqlalchemy", "async_scoped_session")})


def ride(connection: object) -> Foreign:
    """The verbs of a `Connection` on this one.

    Raises:
        UsageError: it is of no kind known here.
    """
    names = set(_names(connection))
    if names & _SCOPED:
        return ride(connection())  # type: ignore[operator]  # the session of this scope
    for kind, driver in _KINDS.items():
        if kind in names:
            return Foreign(driver(connection))
    raise UsageError(
        f"{type(connection).__module__}.{type(connection).__qualname__} cannot be bound. Bind an asyncpg.Connection, a "
        "psycopg.Connection or AsyncConnection, an SQLAlchemy Session, Connection, AsyncSession or AsyncConnection, or "
        "Django's `connection`."
    )


def _names(connection: object) -> Iterator[tuple[str, str]]:
    """Package and name of each class it is an instance of."""
    for cls in type(connection).__mro__:
        yield cls.__module__.partition(".")[0], cls.__name__
