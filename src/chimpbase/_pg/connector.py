"""Connector: opens one connection to the server, with our settings on it, or as many of them as it accepts.

Settings travel as startup parameters, which cost nothing. A pooler such as PgBouncer refuses those it does not know;
then the connection is made without them and without prepared statements, and `pooled` remembers it.
Deliberately absent: keeping connections (`pool`) and running statements (`session`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast

import asyncpg
import msgspec

from chimpbase._pg import dsn as dsn_text
from chimpbase._pg.translate import connect_failure

Record: TypeAlias = asyncpg.Record

_STATEMENTS_CACHED: Final = 512  # more than the statements of the engine and of a large application together
_CHECK_INTERVAL: Final = "client_connection_check_interval"
_OUR_SETTINGS: Final[Mapping[str, str]] = {
    _CHECK_INTERVAL: "500ms",  # a statement whose client is gone ends, and its locks with it
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",
    "TimeZone": "UTC",
}
_REFUSED_SETTING: Final = frozenset({"22023", "42704", "0A000"})
_PROTOCOL_VIOLATION: Final = "08P01"


class Driver(Protocol):
    """What this room uses of the driver's connection."""

    async def fetch(self, query: str, *args: object) -> list[Record]: ...
    async def fetchrow(self, query: str, *args: object) -> Record | None: ...
    async def fetchval(self, query: str, *args: object) -> Any: ...
    async def execute(self, query: str, *args: object) -> str: ...
    async def copy_records_to_table(
        self, table_name: str, *, records: Any, columns: Sequence[str] | None, schema_name: str | None
    ) -> str: ...
    async def add_listener(self, channel: str, callback: Callable[[Any, int, str, str], None]) -> None: ...
    def add_termination_listener(self, callback: Callable[[Any], None]) -> None: ...
    async def set_type_codec(
        self, typename: str, *, schema: str, encoder: Callable[[Any], Any], decoder: Callable[[Any], Any], format: str
    ) -> None: ...
    async def reset(self) -> None: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...
    async def close(self, *, timeout: float) -> None: ...
    def get_server_pid(self) -> int: ...
    def get_server_version(self) -> tuple[int, int, int, str, int]: ...


class Connector:
    """Everything needed to connect, many times."""

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str,
        session: Mapping[str, str] | None = None,
        connect_timeout_s: float = 10.0,
        json: bool = False,
    ) -> None:
        """`session` are settings of each connection, on top of ours; `json` makes json and jsonb values of Python.

        Raises:
            ConfigError: `dsn` is not a PostgreSQL URL.
        """
        self._dsn = dsn_text.checked(dsn)
        self.where = dsn_text.redact(self._dsn)
        self._name = application_name
        self._settings = {**_OUR_SETTINGS, "application_name": application_name, **(session or {})}
        if not sys.platform.startswith("linux"):
            self._settings.pop(_CHECK_INTERVAL)
        self._connect_timeout_s = connect_timeout_s
        self._json = json
        self.pooled = False

    async def connect(self, *, within_s: float | None = None) -> Driver:
        """A new connection, within the connect timeout or `within_s` if that is shorter.

        Raises:
            ConfigError: the credentials, the database's name or a setting are wrong.
            Unreachable: anything else.
        """
        timeout_s = self._connect_timeout_s if within_s is None else min(within_s, self._connect_timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect_somehow()
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
            ValueError,
        ) as error:
            raise connect_failure(error, where=self.where) from error

    def distrust_sessions(self) -> None:
        """A statement prepared here was met by another session: from now on connect as through a transaction pooler."""
        self.pooled = True

    async def _connect_somehow(self) -> Driver:
        try:
            return await self._connect_as_told()
        except asyncpg.PostgresError as error:
            state: str | None = getattr(error, "sqlstate", None)
            if state in _REFUSED_SETTING and _CHECK_INTERVAL in self._settings:
                del self._settings[_CHECK_INTERVAL]  # a server on a system that cannot tell when a client is gone
            elif state == _PROTOCOL_VIOLATION and not self.pooled and "parameter" in str(error):
                self.pooled = True
            else:
                raise
        return await self._connect_somehow()

    async def _connect_as_told(self) -> Driver:
        connect: Callable[..., Awaitable[Driver]] = cast("Any", asyncpg).connect
        driver = await connect(
            self._dsn,
            timeout=None,
            server_settings={"application_name": self._name} if self.pooled else self._settings,
            statement_cache_size=0 if self.pooled else _STATEMENTS_CACHED,
            max_cached_statement_lifetime=0,  # connections have a lifetime already
            max_cacheable_statement_size=0,
            target_session_attrs=None if self._says_which_server() else "read-write",
        )
        try:
            if self._json:
                await _speak_json(driver)
        except BaseException:
            driver.terminate()
            raise
        return driver

    def _says_which_server(self) -> bool:
        return "target_session_attrs" in self._dsn or "PGTARGETSESSIONATTRS" in os.environ


async def _speak_json(driver: Driver) -> None:
    """Binary, since COPY takes nothing else. The byte in front is the version of the jsonb format."""
    decode, encode = msgspec.json.decode, msgspec.json.encode
    await driver.set_type_codec("json", schema="pg_catalog", encoder=encode, decoder=decode, format="binary")
    await driver.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + encode(value),
        decoder=lambda data: decode(memoryview(data)[1:]),
        format="binary",
    )
