"""Brings the database's schema to what this code needs: the runtime's own migrations, then the application's."""

from __future__ import annotations

from pathlib import Path
from random import Random

from chimpbase._core.settings import Settings
from chimpbase._pg.db import Db
from chimpbase._schema.migrate import check, migrate
from chimpbase._schema.source import MigrationSource, own_source, read_source


async def bring_up_to_date(db: Db, *, project: Path, settings: Settings, random: Random, apply: bool) -> list[str]:
    """Apply what is pending, or with `apply` false only check; the files applied by this call.

    Raises:
        SchemaTooNew: the database was migrated by newer code.
        SchemaOutdated: something is pending and `apply` is false, or an applied file was edited.
        SchemaError: a migration failed.
    """
    applied: list[str] = []
    for source in sources(project, settings):
        if apply:
            applied += [done.file_name for done in await migrate(db, source=source, random=random)]
        else:
            await check(db, source=source)
    return applied


def sources(project: Path, settings: Settings) -> list[MigrationSource]:
    """The runtime's migrations, then those of the application if it has a directory of them."""
    directory = project / settings.migrations
    # one that was asked for by name must be there; the default one need not
    wanted = "migrations" in settings.sources or directory.is_dir()
    return [own_source(), *([read_source(directory)] if wanted else [])]
