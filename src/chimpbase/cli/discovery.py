"""Discovery: which App a command is about, and which directory is its project.

Order: what the command was given, else CHIMPBASE_APP, else `app` under [tool.chimpbase] in the pyproject.toml of the
current directory, else app.py or main.py there. An app is named as `file.py`, `file.py:name`, `module` or
`module:name`; without a name the module must hold exactly one App.

The project is where `migrations`, `.chimpbase` and pyproject.toml lie: for a file the nearest directory that has one of
them, from the file's own up to the current one; else the current directory.
"""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import cast

from chimpbase import App, errors
from chimpbase.cli.failures import FAILURE, NOT_FOUND, CommandFailed
from chimpbase.cli.tracebacks import trimmed

_DEFAULTS = ("app.py", "main.py")
_MARKS = ("pyproject.toml", "migrations", ".chimpbase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An app that has been named and not been imported yet. `given` is what named it, `root` goes on `sys.path`."""

    given: str
    module: str
    attribute: str | None
    root: Path
    project: Path
    file: Path | None


def find_target(given: str | None, *, environ: Mapping[str, str], directory: Path) -> Target:
    """Which app is meant, by the order above. Imports nothing.

    Raises:
        CommandFailed: none is named and none is found, or the file named is not there.
    """
    named = given or environ.get("CHIMPBASE_APP") or _in_pyproject(directory / "pyproject.toml")
    if named:
        return _target(named, directory=directory)
    for name in _DEFAULTS:
        if (directory / name).is_file():
            return _target(name, directory=directory)
    files = sorted(path.name for path in directory.glob("*.py"))
    here = f" The Python files here are: {', '.join(files[:10])}." if files else ""
    raise CommandFailed(
        f"No app was named, and {directory} has neither app.py nor main.py.{here} Name one: `--app file.py` or "
        "`--app module:name`, CHIMPBASE_APP, or `app` under [tool.chimpbase] in pyproject.toml.",
        code=NOT_FOUND,
    )


def project_of(given: str | None, *, environ: Mapping[str, str], directory: Path) -> Path:
    """The project of the app that is meant; the current directory when none is found, for commands that need no app."""
    try:
        return find_target(given, environ=environ, directory=directory).project
    except CommandFailed:
        if given:
            raise
        return directory


def load_app(target: Target) -> App:
    """Import the module of a target, and its App.

    Raises:
        CommandFailed: no such module or name, no App or several in it, or importing it failed; then the message ends
            in the traceback of the application's own frames.
    """
    root = str(target.root)
    if root not in sys.path:
        sys.path.insert(0, root)
    module = _imported(target)
    if target.attribute is not None:
        return _attribute(module, target)
    apps = _apps_in(module)
    if len(apps) == 1:
        return next(iter(apps.values()))
    if apps:
        choices = ", ".join(f"{target.given}:{name}" for name in apps)
        raise CommandFailed(f"{target.given} holds {len(apps)} apps. Name one of them: {choices}.", code=NOT_FOUND)
    raise CommandFailed(
        f'{target.given} holds no App. Write `app = App("name", register=[...])` in it, or name another module.',
        code=NOT_FOUND,
    )


def _in_pyproject(path: Path) -> str | None:
    try:
        table = tomllib.loads(path.read_text()).get("tool", {}).get("chimpbase", {})
    except (OSError, ValueError):  # the settings say what is wrong with it
        return None
    found = cast("object", table.get("app"))
    return found if isinstance(found, str) and found.strip() else None


def _target(given: str, *, directory: Path) -> Target:
    place, _, attribute = given.strip().partition(":")
    if not (place.endswith(".py") or os.sep in place):
        return Target(
            given=given,
            module=place,
            attribute=attribute or None,
            root=directory,
            project=directory,
            file=None,
        )
    file = (directory / place).resolve()
    if not file.is_file():
        names = [path.name for path in file.parent.glob("*.py")] if file.parent.is_dir() else []
        close = get_close_matches(file.name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {Path(place).with_name(close[0])}?" if close else ""
        raise CommandFailed(
            f"There is no file {place}.{hint} The app is named as `file.py` or `module:name`.", code=NOT_FOUND
        )
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return Target(
        given=given,
        module=".".join(parts),
        attribute=attribute or None,
        root=root,
        project=_project(file.parent, directory=directory.resolve()),
        file=file,
    )


def _project(start: Path, *, directory: Path) -> Path:
    # never above the current directory: a stray .chimpbase in a parent must not choose the database
    inside = start == directory or directory in start.parents
    for place in [start, *start.parents] if inside else [start]:
        if any((place / mark).exists() for mark in _MARKS):
            return place
        if place == directory:
            break
    return directory if inside else start


def _imported(target: Target) -> ModuleType:
    try:
        return importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is not None and (target.module == error.name or target.module.startswith(f"{error.name}.")):
            raise CommandFailed(_no_module(target, error.name), code=NOT_FOUND) from error
        raise _broken(target, error) from error
    except errors.ChimpbaseError as error:
        raise CommandFailed(f"{target.given}: {error}", code=FAILURE) from error
    except SystemExit as error:
        raise CommandFailed(
            f"{target.given} called sys.exit({error.code!r}) while it was imported. Put what runs the program under "
            '`if __name__ == "__main__":`.'
        ) from error
    except Exception as error:
        raise _broken(target, error) from error


def _broken(target: Target, error: Exception) -> CommandFailed:
    return CommandFailed(f"{target.given} could not be imported.\n{trimmed(error)}")


def _no_module(target: Target, missing: str) -> str:
    names = [path.stem for path in target.root.glob("*.py")]
    close = get_close_matches(target.module, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"There is no module {missing!r} in {target.root} or on the Python path.{hint} "
        "Name the app as `file.py` or `module:name`."
    )


def _attribute(module: ModuleType, target: Target) -> App:
    found = getattr(module, str(target.attribute), None)
    if isinstance(found, App):
        return found
    apps = _apps_in(module)
    hint = f" The apps in {target.module} are: {', '.join(apps)}." if apps else f" {target.module} holds no App at all."
    fault = "does not exist" if found is None else f"is {type(found).__name__}, not an App"
    raise CommandFailed(f"{target.given}: {target.attribute!r} {fault}.{hint}", code=NOT_FOUND)


def _apps_in(module: ModuleType) -> dict[str, App]:
    found: dict[int, tuple[str, App]] = {}
    for name, value in list(vars(module).items()):
        if isinstance(value, App):
            found.setdefault(id(value), (name, value))
    return dict(found.values())
