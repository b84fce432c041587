"""`chimpbase call`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from chimpbase import App
from chimpbase._app.config import read_settings
from chimpbase._app.definitions import Action
from chimpbase.cli.arguments import read_arguments
from chimpbase.cli.commands.options import AppName
from chimpbase.cli.discovery import find_target, load_app
from chimpbase.cli.logs import set_up_logs


def call(
    action: Annotated[str, Parameter(help="The action's name, as `chimpbase ls` shows it.")],
    /,
    *arguments: Annotated[
        str,
        Parameter(
            name="ARGUMENTS",
            help="key=text, read as the type the action declares, or key:=json. The keys are the action's parameters, "
            "or the fields of its only one.",
        ),
    ],
    app: AppName = None,
) -> int:
    """Run one action of an app and print its result as JSON, alone on standard output."""
    target = find_target(app, environ=os.environ, directory=Path.cwd())
    settings = read_settings({}, environ=os.environ, project=target.project)
    set_up_logs(level=settings.log_level, format="text", stream=sys.stderr, colour=False)
    found = load_app(target)
    definition = found.registry.action(action)
    args, kwargs = read_arguments(definition, arguments)
    print(asyncio.run(_call(found, target.project, definition, args, kwargs)))
    return 0


async def _call(
    app: App, project: Path, action: Action[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    async with app.running(project=project, workers=False):
        result = await app.call(action, *args, **kwargs)
    return action.parameters.return_codec.encode(result, subject=f"result of {action.name!r}")
