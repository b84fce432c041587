"""`chimpbase workflow contracts`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from chimpbase._app.contract_files import DIRECTORY, Finding, check_contracts, write_contracts
from chimpbase.cli.commands.options import AppName, Output
from chimpbase.cli.discovery import find_target, load_app
from chimpbase.cli.failures import FAILURE
from chimpbase.cli.logs import to_json
from chimpbase.cli.paint import columns


def contracts(
    what: Annotated[Literal["write", "check"], Parameter(help="Write what is new, or only look.")],
    /,
    *,
    directory: Annotated[str | None, Parameter(help=f"Where the contracts are. Default: {DIRECTORY}.")] = None,
    allow_breaking: Annotated[
        bool, Parameter(negative=(), help="Let a new version insert, remove or change steps and fields.")
    ] = False,
    app: Annotated[AppName, Parameter(name=("--app",))] = None,
    output: Output = "table",
) -> int:
    """Compare the workflows of an app with the contracts kept beside it. Asks no database."""
    target = find_target(app, environ=os.environ, directory=Path.cwd())
    workflows = load_app(target).registry.workflows.values()
    place = Path(directory) if directory else target.project / DIRECTORY
    work = write_contracts if what == "write" else check_contracts
    found = work(workflows, place, allow_breaking=allow_breaking)
    bad = [one for one in found if one.standing == "refused" or (what == "check" and one.standing == "new")]
    if output == "json":
        print(to_json([_record(one, what) for one in found]))
    else:
        rows = [(f"{one.name}@{one.version}", _standing(one, what), one.why) for one in found]
        for line in columns([("WORKFLOW", "CONTRACT", "WHY"), *rows]):
            print(line)
    return FAILURE if bad else 0


def _standing(one: Finding, what: str) -> str:
    if one.standing == "new":
        return "written" if what == "write" else "missing"
    return one.standing


def _record(one: Finding, what: str) -> dict[str, object]:
    return {
        "workflow": one.name,
        "version": one.version,
        "file": str(one.file),
        "standing": _standing(one, what),
        "verdict": one.verdict,
        "why": one.why,
    }
