"""`chimpbase psql`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chimpbase._app import admin
from chimpbase._app.config import Settings, read_settings
from chimpbase.cli.commands.options import AppName
from chimpbase.cli.discovery import project_of
from chimpbase.cli.failures import NOT_FOUND, CommandFailed
from chimpbase.cli.libpq import libpq_environment

_READ_ONLY = "-c default_transaction_read_only=on"


def psql(
    *arguments: Annotated[
        str, Parameter(name="ARGUMENTS", allow_leading_hyphen=True, help="For psql itself, after `--`.")
    ],
    write: Annotated[
        bool, Parameter(negative=(), help="Let transactions write; without it they are read-only.")
    ] = False,
    app: AppName = None,
) -> int:
    """Run psql on the database in effect, and keep the private server up meanwhile."""
    project = project_of(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings({}, environ=os.environ, project=project)
    dsn = admin.configured_dsn(settings, environ=os.environ)
    program = _program(settings, project, private=dsn is None)
    if dsn is not None:
        environment = _environment(dsn, write=write)
        os.execve(program, [str(program), *arguments], environment)  # noqa: S606 - the program the user asked for
    return asyncio.run(_on_private_server(settings, project, program, arguments, write=write))


async def _on_private_server(
    settings: Settings, project: Path, program: Path, arguments: Sequence[str], *, write: bool
) -> int:
    async with admin.database(settings, project=project, environ=os.environ) as target:
        # Ctrl-C cancels a query of psql's; it is not for us
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            environment = _environment(target.dsn, write=write)
            # a thread: the server is looked after by this loop meanwhile
            done = await asyncio.to_thread(
                subprocess.run, [program, *arguments], env=environment, check=False, preexec_fn=_hear_interrupts
            )
        finally:
            signal.signal(signal.SIGINT, before)
    return done.returncode


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _program(settings: Settings, project: Path, *, private: bool) -> Path:
    found = shutil.which("psql")
    if private or found is None:
        own = admin.psql_program(settings, project=project, environ=os.environ)
        if own is not None:
            return own
    if found is None:
        raise CommandFailed("There is no psql on the PATH. Install PostgreSQL's client programs.", code=NOT_FOUND)
    return Path(found)


def _environment(dsn: str, *, write: bool) -> Mapping[str, str]:
    environment = {**os.environ, **libpq_environment(dsn)}
    if not write:
        environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} {_READ_ONLY}".strip()
    return environment
