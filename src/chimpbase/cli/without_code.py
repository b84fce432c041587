"""An app without code: every verb of ctx on a project's database, for commands that need no handler.

Invariant: it declares nothing and works no queue, so it can run beside any version of the app.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from chimpbase import App, Ctx
from chimpbase._app.config import read_settings
from chimpbase.cli.discovery import find_target, load_app, project_of
from chimpbase.cli.logs import set_up_logs


@asynccontextmanager
async def on_database(app: str | None, *, with_code: bool = False, transaction: bool = True) -> AsyncGenerator[Ctx]:
    """A ctx in a transaction of its own, on the database of the project that `app` names.

    Without `transaction` each verb commits by itself. `with_code` imports the app all the same: for payloads, whose
    types only it knows.
    """
    project = project_of(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings({}, environ=os.environ, project=project)
    set_up_logs(level=settings.log_level, format="text", stream=sys.stderr, colour=False)
    known = load_app(find_target(app, environ=os.environ, directory=Path.cwd())) if with_code else App("chimpbase-cli")
    async with known.running(project=project, workers=False):
        if not transaction:
            yield known.ctx
            return
        async with known.transaction() as ctx:
            yield ctx
