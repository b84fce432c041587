"""Migrate: bring a database to the shape its code expects, whoever of many processes comes first.

A migration and the row of `chimpbase.migration` that says so commit together, under an advisory lock that belongs to
that transaction: it survives a transaction pooler and cannot outlive its connection. The lock is tried, never waited
for, because a waiter would hold a snapshot and `create index concurrently` waits for every snapshot.

Invariant: a migration is applied once, after all those with lower numbers in its scope.
Absent: going back. A mistake is undone by the next migration.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final

from chimpbase._core.errors import (
    DatabaseError,
    OutcomeUnknown,
    SchemaError,
    SchemaOutdated,
    SerializationConflict,
    StatementTimeout,
    Unreachable,
)
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Db
from chimpbase._schema import ledger
from chimpbase._schema.source import Migration, MigrationSource

_log = logging.getLogger("chimpbase.schema")

_LOCK_KEY: Final = 0x6368696D70626173  # "chimpbas": one lock for all scopes, since they may touch each other's tables
_DDL_LOCK_WAIT: Final = timedelta(seconds=2)  # longer, and the queue behind our lock request stops the application
_STATEMENT_BUDGET: Final = timedelta(days=1)  # filling a column of a large table takes what it takes
_LOCK_NOT_AVAILABLE: Final = "55P03"
_PAUSE_FIRST_S: Final = 0.01
_PAUSE_DOUBLINGS: Final = 5
_PAUSE_REFUSED_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A migration this call applied. `took` is its whole transaction, the commit included."""

    scope: str
    number: int
    file_name: str
    took: timedelta


async def migrate(
    db: Db, *, source: MigrationSource, random: Random, patience: timedelta = timedelta(minutes=5)
) -> list[Applied]:
    """Apply what is pending, in order, and return what this call applied: nothing when another process was faster.

    Costs one SELECT when nothing is pending. Each migration is a transaction of its own, so a failure keeps those
    before it. DDL waits at most 2 s for a lock, then steps aside and tries again with jitter; `patience` bounds all
    waiting, for locks and for another process that migrates. A file that says `-- chimpbase: no transaction` needs a
    second connection of `db`.

    Raises:
        SchemaTooNew: the database was migrated by newer code.
        SchemaOutdated: an applied file was edited.
        SchemaError: a migration failed (nothing of it is applied), or the user lacks a privilege.
        ConfigError: a pending file controls transactions itself.
        StatementTimeout: `patience` ran out.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience.total_seconds()
    applied: list[Applied] = []
    turned_away = 0
    while waiting := await ledger.pending_in(db, source=source):
        for migration in waiting:
            migration.statements()  # refuse a bad file before any of its predecessors is applied
        refusal: DatabaseError | None = None
        began = clock()
        try:
            if await _apply_one(db, source=source, migration=waiting[0]):
                applied.append(_applied(source, waiting[0], took_s=clock() - began))
                turned_away = 0
                continue
        except DatabaseError as error:
            if not _may_pass(error):
                raise
            refusal = error
            _log.warning("Migration %s steps aside for another transaction. %s", waiting[0].file_name, error)
        if clock() > deadline:
            raise _out_of_patience(waiting[0], patience) from refusal
        await asyncio.sleep(_pause_s(turned_away, refused=refusal is not None) * random.uniform(0.5, 1.5))
        turned_away += 1
    return applied


async def pending(db: Db, *, source: MigrationSource) -> list[Migration]:
    """What `migrate` would apply, in order. Changes nothing.

    Raises:
        SchemaTooNew: the database was migrated by newer code.
        SchemaOutdated: an applied file was edited.
    """
    return await ledger.pending_in(db, source=source)


async def check(db: Db, *, source: MigrationSource) -> None:
    """Refuse a database that is not exactly as `source` wants it. Changes nothing; one SELECT.

    Raises:
        SchemaOutdated: migrations are pending, or an applied file was edited.
        SchemaTooNew: the database was migrated by newer code.
    """
    waiting = await pending(db, source=source)
    if waiting:
        names = ", ".join(migration.file_name for migration in waiting)
        raise SchemaOutdated(
            f"The database lacks {len(waiting)} migration{'s' * (len(waiting) > 1)} of {source.scope!r}: {names}. "
            "Run `chimpbase migrate`."
        )


async def _apply_one(db: Db, *, source: MigrationSource, migration: Migration) -> bool:
    """Apply one migration, if it is still the next one. False: another process holds the lock or was faster."""
    async with db.transaction() as conn:
        if not await conn.fetch_value("select pg_try_advisory_xact_lock($1)", _LOCK_KEY):
            return False
        await _settle(conn)
        await ledger.create(conn)
        waiting = await ledger.pending_in(conn, source=source)
        if not waiting or waiting[0].number != migration.number:
            return False
        if migration.transactional:
            await _run(conn, migration)
        else:
            # Sent without arguments, so that it replaces the portal of the last query, which still holds a snapshot:
            # `create index concurrently` on the other connection would wait for that for ever.
            await conn.execute("set local idle_in_transaction_session_timeout = 0")
            async with db.acquire() as other:
                await _run_outside(other, migration)
        await conn.execute("reset role")  # the file may have set another, and the ledger is ours
        await ledger.note(conn, source=source, migration=migration)
    return True


async def _settle(conn: Connection) -> None:
    """Settings of this transaction: short waits for locks, no limit on work that may rewrite a table."""
    await conn.execute(
        "select set_config('lock_timeout', $1, true), set_config('statement_timeout', '0', true)",
        f"{_DDL_LOCK_WAIT // timedelta(milliseconds=1)}ms",
    )


async def _run(conn: Connection, migration: Migration) -> None:
    statements = migration.statements()
    with conn.budget(_STATEMENT_BUDGET):
        for index, statement in enumerate(statements, start=1):
            try:
                # As a script, because a script's connection is cleaned of settings before it serves anyone else.
                await conn.execute_script(statement.text)
            except (Unreachable, OutcomeUnknown):
                raise
            except DatabaseError as error:
                if _may_pass(error):
                    raise
                place = f"line {statement.line} (statement {index} of {len(statements)})"
                raise _failed(migration, error, place=place) from error


async def _run_outside(conn: Connection, migration: Migration) -> None:
    """Run a file whose statements refuse a transaction. What ran before a failure stays, and is run again."""
    # An index built concurrently must wait for every older transaction; giving up leaves an invalid index behind.
    await conn.execute("set lock_timeout = 0")
    await conn.execute("set statement_timeout = 0")
    await _run(conn, migration)
    await _refuse_invalid_indexes(conn, migration)


async def _refuse_invalid_indexes(conn: Connection, migration: Migration) -> None:
    """`create index concurrently if not exists` is content with the invalid index that a broken build left."""
    rows = await conn.fetch(
        "select i.indexrelid::regclass::text as name from pg_index i join pg_class c on c.oid = i.indexrelid "
        "where not i.indisvalid and position(c.relname in $1) > 0",
        migration.text,
    )
    for row in rows:
        raise SchemaError(
            f"Migration {migration.file_name} found index {row['name']} there but invalid: an earlier build of it was "
            f"broken off. Run `drop index concurrently {row['name']}` and start again."
        )


def _pause_s(turned_away: int, *, refused: bool) -> float:
    # After a refusal the application needs the time that its statements stood in line behind ours.
    return _PAUSE_REFUSED_S if refused else _PAUSE_FIRST_S * 2 ** min(turned_away, _PAUSE_DOUBLINGS)


def _may_pass(error: DatabaseError) -> bool:
    """Whether another transaction was in the way, which a later try may not meet."""
    return isinstance(error, SerializationConflict) or error.sqlstate == _LOCK_NOT_AVAILABLE


def _failed(migration: Migration, error: DatabaseError, *, place: str) -> SchemaError:
    kept = "Nothing of it was applied" if migration.transactional else "Its statements before that one stay applied"
    return SchemaError(
        f"Migration {migration.file_name} failed at {place}. {error} "
        f"{kept}. Correct the file and run `chimpbase migrate`.",
        sqlstate=error.sqlstate,
    )


def _out_of_patience(migration: Migration, patience: timedelta) -> StatementTimeout:
    return StatementTimeout(
        f"Migration {migration.file_name} got no chance within {patience.total_seconds():.0f} s: another process is "
        "migrating, or an open transaction holds a table it needs. See `select pid, state, xact_start, query from "
        "pg_stat_activity order by xact_start` and end the oldest, then start again."
    )


def _applied(source: MigrationSource, migration: Migration, *, took_s: float) -> Applied:
    return Applied(
        scope=source.scope, number=migration.number, file_name=migration.file_name, took=timedelta(seconds=took_s)
    )
