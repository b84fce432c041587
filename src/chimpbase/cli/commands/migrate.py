"""`chimpbase migrate`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chimpbase._app import admin
from chimpbase._app.config import read_settings
from chimpbase.cli.commands.options import AppName
from chimpbase.cli.discovery import project_of
from chimpbase.cli.failures import FAILURE, USAGE, CommandFailed
from chimpbase.cli.logs import set_up_logs


def migrate(
    app: AppName = None,
    *,
    check: Annotated[
        bool, Parameter(negative=(), help="Change nothing; list what is pending and exit 1 if anything is.")
    ] = False,
    sql: Annotated[bool, Parameter(negative=(), help="Print the SQL for an empty database and ask none.")] = False,
) -> int:
    """Apply what is pending, or with `--check` or `--sql` only show it."""
    if check and sql:
        raise CommandFailed("--check asks the database and --sql asks none. Give one of them.", code=USAGE)
    project = project_of(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings({}, environ=os.environ, project=project)
    if sql:
        sys.stdout.write(admin.migration_script(settings=settings, project=project))
        return 0
    set_up_logs(level=settings.log_level, format="text", stream=sys.stderr, colour=False)

    async def work() -> list[str]:
        async with admin.database(settings, project=project, environ=os.environ) as target:
            if check:
                return await admin.pending_migrations(target, settings=settings, project=project)
            return await admin.migrate(target, settings=settings, project=project)

    names = asyncio.run(work())
    for name in names:
        print(f"{'pending' if check else 'applied'} {name}")
    if not names:
        print("nothing is pending" if check else "nothing to apply: the schema is up to date")
    return FAILURE if check and names else 0
