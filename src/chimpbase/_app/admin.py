"""Admin: what an operator does to an app's database without running the app. For the command line and its like.

Invariant: nothing here runs a handler. Absent on purpose: reading the command line, printing, and a running app's own
doings, which are `Runtime`'s.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

from chimpbase._app.registry import Registry
from chimpbase._app.replay import Verdict, check
from chimpbase._app.schema import bring_up_to_date, sources
from chimpbase._core.codec_types import describe_type
from chimpbase._core.parameters import REQUIRED as REQUIRED
from chimpbase._core.settings import Settings
from chimpbase._engine.keepers import ServerKeeper
from chimpbase._pg.binaries import find_binaries
from chimpbase._pg.db import Db
from chimpbase._pg.dsn import effective_dsn, redact
from chimpbase._pg.embedded import EmbeddedServer
from chimpbase._schema import ledger
from chimpbase._schema.migrate import pending
from chimpbase._schema.source import Migration, MigrationSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The database in effect. `embedded` is the private one's data directory as the settings name it, else None.

    `url` has no password in it; `dsn` may.
    """

    dsn: str = field(repr=False)
    embedded: Path | None

    @property
    def url(self) -> str:
        return redact(self.dsn)


def configured_dsn(settings: Settings, *, environ: Mapping[str, str]) -> str | None:
    """The DSN that the settings or the environment name; None when the private PostgreSQL is to be used.

    Raises:
        ConfigError: the URL is none of PostgreSQL.
    """
    return effective_dsn(settings.database_url, environ=environ)


@asynccontextmanager
async def database(settings: Settings, *, project: Path, environ: Mapping[str, str]) -> AsyncGenerator[Target]:
    """The database in effect, running: the private PostgreSQL is started when needed, and stopped with the block.

    If another process of the project runs it already it is only used, and started again here if that process leaves.

    Raises:
        ConfigError: the URL is none of PostgreSQL, or no private server can be run here.
        Unreachable: the private server did not start.
    """
    dsn = configured_dsn(settings, environ=environ)
    if dsn is not None:
        yield Target(dsn=dsn, embedded=None)
        return
    binaries = Path(settings.postgres_bin) if settings.postgres_bin else None
    async with AsyncExitStack() as stack:
        server = await EmbeddedServer.start(project / settings.data_directory, binaries=binaries, environ=environ)
        stack.push_async_callback(server.stop)
        keeper = ServerKeeper(server.ensure, random=Random().random)
        stack.push_async_callback(keeper.stop)
        keeper.start()
        yield Target(dsn=server.dsn, embedded=project / settings.data_directory)


async def migrate(target: Target, *, settings: Settings, project: Path) -> list[str]:
    """Apply what is pending, the runtime's migrations first; the names of the files applied by this call.

    Raises:
        SchemaError: as `bring_up_to_date`.
    """
    async with _opened(target, settings) as db:
        return await bring_up_to_date(db, project=project, settings=settings, random=Random(), apply=True)


async def pending_migrations(target: Target, *, settings: Settings, project: Path) -> list[str]:
    """The names of the files that `migrate` would apply, in order. Changes nothing.

    Raises:
        SchemaError: as `bring_up_to_date`.
    """
    async with _opened(target, settings) as db:
        return [one.file_name for source in sources(project, settings) for one in await pending(db, source=source)]


async def check_runs(target: Target, *, settings: Settings, registry: Registry, workflow: str | None) -> list[Verdict]:
    """Replay every run that has not ended over the code of an app; nothing is written, and nothing is declared.

    Raises:
        DatabaseError: the database cannot be read, or its schema is another.
    """
    db = await Db.open(
        target.dsn,
        size=2,
        budget=settings.statement_budget,
        application_name="chimpbase workflow check",
    )
    try:
        return await check(registry, db, workflow=workflow)
    finally:
        await db.close(grace=timedelta(seconds=1))


def migration_script(*, settings: Settings, project: Path) -> str:
    """Everything `migrate` does to an empty database, as one script for psql. No database is asked.

    Each migration is noted in the same transaction, so a process that starts afterwards finds nothing to do.
    """
    found = sources(project, settings)
    parts = ["create schema if not exists chimpbase;", f"{ledger.LEDGER.strip()};"]
    parts += [_script(source, migration) for source in found for migration in source.migrations]
    return "\n\n".join(parts) + "\n"


def psql_program(settings: Settings, *, project: Path, environ: Mapping[str, str]) -> Path | None:
    """The psql that belongs to the private server's programs, if they have one. Starts `postgres --version`: it blocks.

    Raises:
        ConfigError: no PostgreSQL programs are found.
    """
    try:
        major = int((project / settings.data_directory / "PG_VERSION").read_text())
    except (OSError, ValueError):
        major = None
    setting = Path(settings.postgres_bin) if settings.postgres_bin else None
    program = find_binaries(setting=setting, environ=environ, data_major=major).directory / "psql"
    return program if os.access(program, os.X_OK) else None


@asynccontextmanager
async def _opened(target: Target, settings: Settings) -> AsyncGenerator[Db]:
    # two connections: a migration outside a transaction holds the lock on the other
    db = await Db.open(target.dsn, size=2, budget=settings.statement_budget, application_name="chimpbase migrate")
    try:
        yield db
    finally:
        await db.close(grace=timedelta(seconds=1))


def _script(source: MigrationSource, migration: Migration) -> str:
    note = (
        "insert into chimpbase.migration (scope, number, name, checksum)\n"
        f"values ('{source.scope}', {migration.number}, '{migration.file_name}', '{migration.checksum}');"
    )
    text = migration.text.strip()
    ending = "" if text.endswith(";") else "\n;"
    head = f"-- {source.scope}: {migration.file_name}"
    if not migration.transactional:
        return f"{head}\n{text}{ending}\n{note}"
    return f"{head}\nbegin;\n\n{text}{ending}\n\n{note}\ncommit;"


def in_words(annotation: Any) -> str:
    """A type as a programmer would write it, without the module of a class."""
    if annotation is None or annotation is type(None):
        return "None"
    return describe_type(annotation).rpartition(".")[2] if isinstance(annotation, type) else describe_type(annotation)


def version() -> str:
    """The version of this package; "0" when it runs from a checkout that is not installed."""
    try:
        return metadata.version("chimpbase")
    except metadata.PackageNotFoundError:
        return "0"
