"""The listing: everything an app registered, each with its kind, name, details and place."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from inspect import Signature
from typing import Any, NamedTuple, cast

from chimpbase import App, errors
from chimpbase._app.admin import in_words
from chimpbase._app.definitions import (
    Action,
    Cron,
    Definition,
    OnBroadcast,
    Step,
    Subscription,
    Worker,
    Workflow,
    source_of,
)


class Entry(NamedTuple):
    """One registration. `place` is `file:line`, or empty for a token, which is a name without a function."""

    kind: str
    name: str
    details: str
    place: str


def listing(app: App) -> list[Entry]:
    """What is registered, by kind and then by name: definitions, tokens nobody handles here, and routes."""
    return [*map(_entry, app.definitions()), *_lone_tokens(app), *_edges(app)]


def _entry(definition: Definition) -> Entry:
    given: Any = definition
    version = f"@{given.version}" if isinstance(given, Workflow) else ""
    return Entry(definition.kind, f"{definition.name}{version}", _details(definition), definition.source)


def _details(definition: Definition) -> str:
    given: Any = definition
    match definition:
        case Action() | Workflow() | Step():
            return signature(given)
        case Worker():
            return ", ".join(_work(given))
        case Subscription() | OnBroadcast():
            return f"on {given.event.name}"
        case Cron():
            cadence = given.cadence
            if cadence is None:
                return "schedules made at run time"
            upcoming = cadence.next_after(datetime.now(UTC))
            then = f"; next {upcoming.astimezone():%Y-%m-%d %H:%M:%S %Z}" if upcoming else ""
            return f"{cadence.expression}  {cadence.explain()}{then}"
        case _:
            return ""


def _work(worker: Worker[Any, Any]) -> Iterator[str]:
    yield f"queue {worker.queue.name} of {in_words(worker.queue.type)}"
    yield f"{worker.retry.max_attempts} attempts"
    if worker.timeout is not None:
        yield f"timeout {worker.timeout.total_seconds():g} s"
    if worker.concurrency is not None:
        yield f"{worker.concurrency} at once"
    if not worker.transaction:
        yield "no transaction"


def signature(definition: Action[..., Any] | Workflow[Any, Any] | Step[..., Any]) -> str:
    """What a caller gives and gets, as a programmer would write it."""
    parameters = definition.parameters
    required = (f"{item.name}: {in_words(item.annotation)}" + _default(item) for item in parameters.items)
    return f"({', '.join(required)}) -> {in_words(parameters.returns)}"


def _default(item: Any) -> str:
    return "" if item.default is Signature.empty else f" = {item.default!r}"


def _lone_tokens(app: App) -> Iterator[Entry]:
    for name in sorted(set(app.registry.tokens("queue")) - {one.queue.name for one in app.registry.workers.values()}):
        yield Entry("queue", name, "no worker here", "")


def _edges(app: App) -> Iterator[Entry]:
    for entry in app.edge_entries:
        action = _action_of(entry, app)
        if action is not None:
            yield Entry("route", str(getattr(entry, "title", entry)), f"-> {action.name}", action.source)
            continue
        endpoint = getattr(getattr(entry, "route", None), "endpoint", None)
        place = source_of(endpoint) if callable(endpoint) else ""
        yield Entry("route", str(entry), "", place if place.rpartition(":")[2].isdigit() else "")


def _action_of(entry: object, app: App) -> Action[..., Any] | None:
    """The action behind a route, which may name it only."""
    given = getattr(entry, "action", None)
    if isinstance(given, str):
        try:
            return app.registry.action(given)
        except errors.NotRegistered:  # refused when the app starts; a listing must still be had
            return None
    return cast("Action[..., Any]", given) if isinstance(given, Action) else None
