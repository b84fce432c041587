"""The banner: what runs, where it is found, and what is registered, once, when an app has started."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from chimpbase import Runtime
from chimpbase._app.admin import version
from chimpbase.cli.listing import Entry
from chimpbase.cli.paint import Paint, near

_PLURALS = {
    "action": "actions",
    "worker": "workers",
    "subscription": "subscriptions",
    "cron": "cron",
    "workflow": "workflows",
    "step": "steps",
    "queue": "queues",
    "route": "routes",
}


def banner(
    runtime: Runtime,
    entries: Sequence[Entry],
    *,
    embedded: Path | None,
    notes: Sequence[str],
    paint: Paint,
    directory: Path,
) -> str:
    """The banner of a running app. `embedded` is the data directory of a private server that another process keeps."""
    database = runtime.database
    private = embedded or (runtime.project / runtime.settings.data_directory if database.embedded else None)
    where = f"(embedded)  {_seen_from(private, directory)}" if private else database.url
    facts = [
        f"{paint('chimpbase', 'bold')} {version()}  app {paint(runtime.app.name, 'bold')}",
        "",
        f"PostgreSQL {database.version} {where}  {_applied(database.migrations)}",
        f"{paint(runtime.address or 'no HTTP', 'bold')}  {'workers on' if runtime.workers else 'no workers'}",
        "  ".join([f"started in {runtime.started_in.total_seconds() * 1000:.0f} ms", *notes]),
    ]
    lines = ["", *facts, "", *_registered(entries, paint=paint, directory=directory)]
    return "\n".join(f"  {line}".rstrip() for line in lines)


def summary(runtime: Runtime) -> dict[str, object]:
    """The banner's facts for one log line."""
    database = runtime.database
    return {
        "app": runtime.app.name,
        "version": version(),
        "address": runtime.address,
        "workers": runtime.workers,
        "database": database.url,
        "postgresql": database.version,
        "embedded": database.embedded,
        "migrations_applied": list(database.migrations),
        "seconds": round(runtime.started_in.total_seconds(), 3),
    }


def _registered(entries: Sequence[Entry], *, paint: Paint, directory: Path) -> list[str]:
    if not entries:
        return ["nothing is registered: give App(register=[...]) its definitions", ""]
    places = [near(entry.place, directory=directory) for entry in entries]
    name_width, place_width = max(len(entry.name) for entry in entries), max(map(len, places))
    lines: list[str] = []
    for kind, group in groupby(zip(entries, places, strict=True), key=lambda pair: pair[0].kind):
        lines.append(paint(_PLURALS.get(kind, kind), "dim"))
        for entry, place in group:
            lines.append(f"  {entry.name:<{name_width}}  {paint(f'{place:<{place_width}}', 'dim')}  {entry.details}")
        lines.append("")
    return lines


def _applied(migrations: Sequence[str]) -> str:
    count = len(migrations)
    return f"{count} migration{'s' * (count != 1)} applied" if count else "schema up to date"


def _seen_from(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)
