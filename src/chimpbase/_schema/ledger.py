"""The ledger: `chimpbase.migration`, one row for each migration a database got.

Invariant: the rows of a scope are a prefix of the numbers 1, 2, 3 ...; none is ever changed or removed.
Absent: applying anything. That is `migrate`'s business, which writes the row in the migration's own transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from chimpbase._core.errors import DatabaseError, SchemaError, SchemaOutdated, SchemaTooNew
from chimpbase._pg.connection import Connection, Row
from chimpbase._pg.db import Queryable
from chimpbase._schema.source import Migration, MigrationSource

_NO_SUCH_TABLE: Final = "42P01"
_FORBIDDEN: Final = "42501"

LEDGER: Final = """
create table if not exists chimpbase.migration (
  scope       text not null,
  number      int not null,
  name        text not null,
  checksum    text not null,
  applied_at  timestamptz not null default now(),
  primary key (scope, number)
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A row of the ledger."""

    number: int
    file_name: str
    checksum: str
    applied_at: datetime


async def pending_in(conn: Queryable, *, source: MigrationSource) -> list[Migration]:
    """The migrations of `source` that the database lacks, in order. One SELECT, outside or inside a transaction."""
    try:
        rows = await conn.fetch(
            "select number, name, checksum, applied_at from chimpbase.migration where scope = $1 order by number",
            source.scope,
        )
    except DatabaseError as error:
        if error.sqlstate == _NO_SUCH_TABLE:
            return list(source.migrations)
        if error.sqlstate == _FORBIDDEN:
            raise await _may_not_read(conn) from error
        raise
    return _missing(source, [_record(row) for row in rows])


def _record(row: Row) -> Record:
    return Record(number=row["number"], file_name=row["name"], checksum=row["checksum"], applied_at=row["applied_at"])


def _missing(source: MigrationSource, ledger: Sequence[Record]) -> list[Migration]:
    known = {migration.number: migration for migration in source.migrations}
    for record in ledger:
        migration = known.get(record.number)
        if migration is None:
            raise SchemaTooNew(
                f"The database has migration {record.file_name} of {source.scope!r}, and this code knows "
                f"{len(known)} of them ({source.origin}). Deploy the code that brought it, or newer."
            )
        if migration.checksum != record.checksum:
            raise _edited(source, migration, record)
    applied = {record.number for record in ledger}
    return [migration for migration in source.migrations if migration.number not in applied]


def _edited(source: MigrationSource, migration: Migration, record: Record) -> SchemaOutdated:
    when = f"{record.applied_at:%Y-%m-%d %H:%M %Z}"
    sums = f"sha256 {migration.checksum[:12]} here, {record.checksum[:12]} applied"
    if migration.file_name != record.file_name:
        return SchemaOutdated(
            f"Migration {migration.number:04} of {source.scope!r} is {migration.file_name} in {source.origin}, but the "
            f"database got {record.file_name} under that number on {when} ({sums}). "
            "Bring that file back, and give the other one the next free number."
        )
    return SchemaOutdated(
        f"Migration {migration.file_name} in {source.origin} was edited after the database got it on {when} ({sums}). "
        f"Restore the file, and put the change into a new migration {len(source.migrations) + 1:04}_..."
    )


async def note(conn: Connection, *, source: MigrationSource, migration: Migration) -> None:
    """Write that a migration was applied. Runs in the caller's transaction."""
    await conn.execute(
        "insert into chimpbase.migration (scope, number, name, checksum) values ($1, $2, $3, $4)",
        source.scope,
        migration.number,
        migration.file_name,
        migration.checksum,
    )


async def create(conn: Connection) -> None:
    """Create schema and table if they are missing. Runs in the caller's transaction, which must hold the lock."""
    # Looked for first, because `if not exists` asks for the privilege to create even where nothing is to be created.
    (here,) = await conn.fetch(
        "select current_user as user, current_database() as database, to_regnamespace('chimpbase') is null as bare, "
        "to_regclass('chimpbase.migration') is null as unledgered"
    )
    try:
        if here["bare"]:
            await conn.execute("create schema chimpbase")
        if here["unledgered"]:
            await conn.execute(LEDGER)
    except DatabaseError as error:
        if error.sqlstate == _FORBIDDEN:
            raise _may_not_create(user=str(here["user"]), database=str(here["database"])) from error
        raise


def _may_not_create(*, user: str, database: str) -> SchemaError:
    return SchemaError(
        f"User {user!r} may not create the schema 'chimpbase' or a table in it, in database {database!r}. "
        f"As the owner of the database run: create schema if not exists chimpbase; "
        f'grant usage, create on schema chimpbase to "{user}";',
        sqlstate=_FORBIDDEN,
    )


async def _may_not_read(conn: Queryable) -> SchemaError:
    user = await conn.fetch_value("select current_user")
    return SchemaError(
        f"User {str(user)!r} may not read chimpbase.migration. As its owner run: "
        f'grant usage on schema chimpbase to "{user}"; grant select on chimpbase.migration to "{user}";',
        sqlstate=_FORBIDDEN,
    )
