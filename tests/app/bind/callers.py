"""Callers: programs that own a transaction, one for each kind of connection that `app.bind` takes.

Whatever a caller does, it does with `do`: the synchronous ones in a thread of their own, which has no event loop, so
that a test is written once for both kinds.
"""

from __future__ import annotations

import inspect
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import django
import psycopg
from django.conf import settings as django_settings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker


class Caller:
    """A connection of the caller's and its transaction. `tells` is whether its library tells of its commits."""

    is_sync = False
    tells = False

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.bindable: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1) if self.is_sync else None

    async def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function or a verb the way this caller's program does."""
        if self._thread is not None:
            return await get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))
        answer = function(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    async def open(self) -> None:
        await self.do(self._open)

    async def close(self) -> None:
        await self.do(self._close)
        if self._thread is not None:
            self._thread.shutdown()

    async def begin(self) -> None:
        await self.do(self._begin)

    async def commit(self) -> None:
        await self.do(self._commit)

    async def rollback(self) -> None:
        await self.do(self._rollback)

    async def execute(self, sql: str) -> None:
        await self.do(self._execute, sql)

    async def savepoint(self) -> Callable[[bool], Any]:
        """Set a savepoint; call the answer with whether to keep what was done since."""
        end = await self.do(self._savepoint)

        async def finish(keep: bool) -> None:
            await self.do(end, keep)

        return finish

    _open: Callable[[], Any]
    _close: Callable[[], Any]
    _begin: Callable[[], Any]
    _commit: Callable[[], Any]
    _rollback: Callable[[], Any]
    _execute: Callable[[str], Any]
    _savepoint: Callable[[], Any]


class Asyncpg(Caller):
    async def _open(self) -> None:
        self.bindable = await asyncpg.connect(self.dsn)

    async def _close(self) -> None:
        await self.bindable.close()

    async def _begin(self) -> None:
        self._transaction = self.bindable.transaction()
        await self._transaction.start()

    async def _commit(self) -> None:
        await self._transaction.commit()

    async def _rollback(self) -> None:
        await self._transaction.rollback()

    async def _execute(self, sql: str) -> None:
        await self.bindable.execute(sql)

    async def _savepoint(self) -> Callable[[bool], Any]:
        inner = self.bindable.transaction()
        await inner.start()
        return lambda keep: inner.commit() if keep else inner.rollback()


class AsyncpgPool(Asyncpg):
    async def _open(self) -> None:
        self._pool = await asyncpg.create_pool(self.dsn, min_size=1, max_size=1)
        self.bindable = await self._pool.acquire()

    async def _close(self) -> None:
        await self._pool.release(self.bindable)
        await self._pool.close()


class AsyncPsycopg(Caller):
    async def _open(self) -> None:
        self.bindable = await psycopg.AsyncConnection.connect(self.dsn)

    async def _close(self) -> None:
        await self.bindable.close()

    async def _begin(self) -> None: ...

    async def _commit(self) -> None:
        await self.bindable.commit()

    async def _rollback(self) -> None:
        await self.bindable.rollback()

    async def _execute(self, sql: str) -> None:
        await self.bindable.execute(sql)

    async def _savepoint(self) -> Callable[[bool], Any]:
        await self.bindable.execute("savepoint mine")
        return lambda keep: self._execute("release mine" if keep else "rollback to mine")


class Psycopg(Caller):
    is_sync = True

    def _open(self) -> None:
        self.bindable = psycopg.connect(self.dsn)

    def _close(self) -> None:
        self.bindable.close()

    def _begin(self) -> None: ...

    def _commit(self) -> None:
        self.bindable.commit()

    def _rollback(self) -> None:
        self.bindable.rollback()

    def _execute(self, sql: str) -> None:
        self.bindable.execute(sql)

    def _savepoint(self) -> Callable[[bool], Any]:
        self.bindable.execute("savepoint mine")
        return lambda keep: self._execute("release mine" if keep else "rollback to mine")


class AsyncSqlAlchemy(Caller):
    """An AsyncConnection over asyncpg."""

    library = "asyncpg"

    async def _open(self) -> None:
        self._engine = create_async_engine(sqlalchemy_url(self.dsn, self.library))
        self.bindable = await self._make()

    async def _make(self) -> Any:
        return await self._engine.connect()

    async def _close(self) -> None:
        await self.bindable.close()
        await self._engine.dispose()

    async def _begin(self) -> None: ...

    async def _commit(self) -> None:
        await self.bindable.commit()

    async def _rollback(self) -> None:
        await self.bindable.rollback()

    async def _execute(self, sql: str) -> None:
        await self.bindable.execute(text(sql))

    async def _savepoint(self) -> Callable[[bool], Any]:
        inner = await self.bindable.begin_nested()
        return lambda keep: inner.commit() if keep else inner.rollback()


class AsyncSqlAlchemySession(AsyncSqlAlchemy):
    tells = True

    async def _make(self) -> Any:
        return AsyncSession(self._engine)


class AsyncSqlAlchemyPsycopg(AsyncSqlAlchemySession):
    library = "psycopg"


class AsyncScopedSession(AsyncSqlAlchemySession):
    async def _make(self) -> Any:
        return async_scoped_session(async_sessionmaker(self._engine), scopefunc=lambda: None)


class SqlAlchemy(Caller):
    """A Connection over psycopg."""

    is_sync = True

    def _open(self) -> None:
        self._engine = create_engine(sqlalchemy_url(self.dsn, "psycopg"))
        self.bindable = self._make()

    def _make(self) -> Any:
        return self._engine.connect()

    def _close(self) -> None:
        self.bindable.close()
        self._engine.dispose()

    def _begin(self) -> None: ...

    def _commit(self) -> None:
        self.bindable.commit()

    def _rollback(self) -> None:
        self.bindable.rollback()

    def _execute(self, sql: str) -> None:
        self.bindable.execute(text(sql))

    def _savepoint(self) -> Callable[[bool], Any]:
        inner = self.bindable.begin_nested()
        return lambda keep: inner.commit() if keep else inner.rollback()


class SqlAlchemySession(SqlAlchemy):
    tells = True

    def _make(self) -> Any:
        return Session(self._engine)


class ScopedSession(SqlAlchemySession):
    def _make(self) -> Any:
        return scoped_session(sessionmaker(self._engine))


class Django(Caller):
    is_sync = True
    tells = True

    def _open(self) -> None:
        configure_django()
        from django.db import connection

        connection.settings_dict.update(django_database(self.dsn))
        self.bindable = connection

    def _close(self) -> None:
        self.bindable.close()

    def _begin(self) -> None:
        self._atomic = django_atomic()
        self._atomic.__enter__()

    def _commit(self) -> None:
        self._atomic.__exit__(None, None, None)

    def _rollback(self) -> None:
        self.bindable.set_rollback(True)
        self._atomic.__exit__(None, None, None)

    def _execute(self, sql: str) -> None:
        with self.bindable.cursor() as cursor:
            cursor.execute(sql)

    def _savepoint(self) -> Callable[[bool], Any]:
        inner = django_atomic()
        inner.__enter__()

        def finish(keep: bool) -> None:
            if not keep:
                self.bindable.set_rollback(True)
            inner.__exit__(None, None, None)

        return finish


CALLERS: list[type[Caller]] = [
    Asyncpg,
    AsyncpgPool,
    AsyncPsycopg,
    Psycopg,
    AsyncSqlAlchemy,
    AsyncSqlAlchemySession,
    AsyncSqlAlchemyPsycopg,
    AsyncScopedSession,
    SqlAlchemy,
    SqlAlchemySession,
    ScopedSession,
    Django,
]


@asynccontextmanager
async def calling(kind: type[Caller], dsn: str) -> AsyncIterator[Caller]:
    """A caller of this kind, connected."""
    caller = kind(dsn)
    await caller.open()
    try:
        yield caller
    finally:
        await caller.close()


def sqlalchemy_url(dsn: str, driver: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


def configure_django() -> None:
    if not django_settings.configured:
        engine = {"ENGINE": "django.db.backends.postgresql", "NAME": "set by each test"}
        django_settings.configure(DATABASES={"default": engine}, USE_TZ=True)
        django.setup()


def django_atomic() -> Any:
    """`transaction.atomic()`, which type checkers take for the decorator that it is, too."""
    from django.db import transaction

    return transaction.atomic()


def django_database(dsn: str) -> dict[str, Any]:
    given = conninfo_to_dict(dsn)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    return {name: given.get(key) or "" for name, key in names.items()}
