"""The registry: every definition and token of one app, by kind and name. The list given to it is the truth."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

from chimpbase._app.collection_token import Collection
from chimpbase._app.definitions import (
    Action,
    Consumer,
    Cron,
    Definition,
    OnBroadcast,
    Step,
    Subscription,
    Worker,
    Workflow,
)
from chimpbase._app.kv_token import KV
from chimpbase._app.tokens import Event, Queue, Signal, Stream, Token, Topics
from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.errors import AlreadyRegistered, NotRegistered, UsageError
from chimpbase._core.names import check_name

D = TypeVar("D", bound=Definition)
T = TypeVar("T")

#: Definitions with a queue behind them, which a process works.
Queued = Worker[Any, Any] | Subscription[Any] | Cron[Any] | Workflow[Any, Any]
Entry = (
    Queued
    | Consumer[Any]
    | OnBroadcast[Any]
    | Action[..., Any]
    | Step[..., Any]
    | Queue[Any]
    | Event[Any]
    | Signal[Any]
    | Stream[Any]
    | KV[Any]
    | Collection[Any]
)
_KINDS = (
    Consumer,
    OnBroadcast,
    Worker,
    Subscription,
    Cron,
    Workflow,
    Action,
    Step,
    Queue,
    Event,
    Signal,
    Stream,
    KV,
    Collection,
)


class Registry:
    """What one app knows. Filled before the app runs."""

    def __init__(self) -> None:
        self._actions: dict[str, Action[..., Any]] = {}
        self._workers: dict[str, Worker[Any, Any]] = {}
        self._subscriptions: dict[str, Subscription[Any]] = {}
        self._crons: dict[str, Cron[Any]] = {}
        self._workflows: dict[tuple[str, int], Workflow[Any, Any]] = {}
        self._steps: dict[str, Step[..., Any]] = {}
        self._consumers: dict[str, Consumer[Any]] = {}
        self._on_broadcasts: dict[str, OnBroadcast[Any]] = {}
        self._tokens: dict[str, dict[str, Token[Any]]] = {
            "queue": {},
            "event": {},
            "signal": {},
            "namespace": {},
            "stream": {},
            "pattern": {},
            "collection": {},
        }

    def add(self, entry: object) -> None:
        """Add a definition or a token. The same one twice is once.

        Raises:
            AlreadyRegistered: another definition of that kind has the name.
            UsageError: it is neither.
        """
        if not isinstance(entry, _KINDS):
            raise UsageError(
                f"{entry!r:.80} cannot be registered. Give definitions (@action, @worker ...), tokens, lists of them, "
                "or Blueprints."
            )
        self._add(cast("Entry", entry))

    def _add(self, entry: Entry) -> None:
        match entry:
            case Action():
                self._put(self._actions, entry.name, entry)
            case Worker():
                self._put(self._workers, entry.name, entry)
                self._add_token(entry.queue)
            case Subscription():
                self._put(self._subscriptions, entry.name, entry)
                self._add_token(entry.event)
            case Cron():
                self._put(self._crons, entry.name, entry)
            case Workflow():
                self._put(self._workflows, (entry.name, entry.version), entry)
            case Consumer():
                self._put(self._consumers, entry.name, entry)
                self._add_token(entry.stream)
            case OnBroadcast():
                self._put(self._on_broadcasts, entry.name, entry)
                self._add_token(entry.event)
            case Step():
                self._put(self._steps, entry.name, entry)
            case Queue() | Event() | Signal() | Stream() | KV() | Collection():
                self._add_token(entry)

    # Look-ups by what a verb was given: a definition, a token, or a name

    def action(self, name: str) -> Action[..., Any]:
        """The action of that name.

        Raises:
            NotRegistered: there is none.
        """
        return _found("action", name, self._actions)

    def queue(self, given: Queue[Any] | Worker[Any, Any] | str) -> Queue[Any]:
        """The token of a queue. A token need not be registered: a producer may know no more than it.

        Raises:
            NotRegistered: no queue of that name.
        """
        if isinstance(given, Worker):
            return given.queue
        return given if isinstance(given, Queue) else self._token("queue", given)

    def event(self, given: Event[Any] | Subscription[Any] | OnBroadcast[Any] | str) -> Event[Any]:
        """The token of an event.

        Raises:
            NotRegistered: no event of that name.
        """
        if isinstance(given, Subscription | OnBroadcast):
            given = given.event
        if isinstance(given, Topics):
            raise UsageError(f"{given.name!r} is a pattern, which can be subscribed to. Publish under one topic.")
        return given if isinstance(given, Event) else self._token("event", given)

    def signal(self, given: Signal[Any] | str) -> Signal[Any]:
        """The token of a signal. A name alone is a signal of any type, unless a token of that name is registered."""
        if isinstance(given, Signal):
            return given
        check_name("signal", given)
        known: Any = self._tokens["signal"].get(given)
        return known if known is not None else Signal(check_name("signal", given))

    def workflow(self, given: Workflow[Any, Any] | str) -> Workflow[Any, Any]:
        """The workflow given, or the highest registered version of that name.

        Raises:
            NotRegistered: no workflow of that name.
        """
        if isinstance(given, Workflow):
            return given
        latest = {name: self._workflows[name, version] for name, version in sorted(self._workflows)}
        return _found("workflow", given, latest)

    def result_codec(self, workflow: str, version: int) -> Codec[Any]:
        """How the results of a workflow are read: as its declared type when it is known here, else as JSON types."""
        known = self._workflows.get((workflow, version))
        return known.return_codec if known else codec_for(Any)

    # Listings

    @property
    def workers(self) -> Mapping[str, Worker[Any, Any]]:
        return MappingProxyType(self._workers)

    @property
    def subscriptions(self) -> Mapping[str, Subscription[Any]]:
        return MappingProxyType(self._subscriptions)

    @property
    def crons(self) -> Mapping[str, Cron[Any]]:
        return MappingProxyType(self._crons)

    @property
    def workflows(self) -> Mapping[tuple[str, int], Workflow[Any, Any]]:
        return MappingProxyType(self._workflows)

    @property
    def on_broadcasts(self) -> Mapping[str, OnBroadcast[Any]]:
        return MappingProxyType(self._on_broadcasts)

    def tokens(self, kind: str) -> Mapping[str, Any]:
        """The tokens of a kind ("queue", "event", "signal", "stream") by name."""
        return MappingProxyType(self._tokens[kind])

    def queued(self) -> list[Queued]:
        """Every definition with a queue behind it."""
        return [
            *self._workers.values(),
            *self._subscriptions.values(),
            *self._crons.values(),
            *self._workflows.values(),
        ]

    def definitions(self) -> Iterator[Definition]:
        """Every definition, by kind and then by name."""
        for kind in (
            self._actions,
            self._workers,
            self._subscriptions,
            self._crons,
            self._workflows,
            self._steps,
            self._consumers,
            self._on_broadcasts,
        ):
            yield from (definition for _, definition in sorted(kind.items()))

    def _put(self, kind: dict[Any, D], key: object, definition: D) -> None:
        known = kind.setdefault(key, definition)
        if known is not definition:
            raise AlreadyRegistered(
                f"Two definitions claim the {definition.kind} name {definition.name!r}: {known.source} and "
                f"{definition.source}. Rename one."
            )

    def _add_token(self, token: Token[Any]) -> None:
        known = self._tokens[token.kind].setdefault(token.name, token)
        if known is not token and known.traits() != token.traits():
            raise AlreadyRegistered(
                f"Two tokens of {token.kind} {token.name!r} differ: {known!r}, {token!r}. Use one token."
            )

    def _token(self, kind: str, name: str) -> Any:
        return _found(kind, name, self._tokens[kind])


def forgotten(registry: Registry) -> list[Definition]:
    """Definitions that stand in the modules of registered ones, but nobody registered. Steps need not be."""
    known = {id(definition.function) for definition in registry.definitions()}
    modules = {definition.function.__module__ for definition in registry.definitions()}
    found: dict[int, Definition] = {}
    for module in (sys.modules.get(name) for name in modules):
        for value in list(vars(module).values()) if module else ():
            if isinstance(value, Definition) and not isinstance(value, Step) and id(value.function) not in known:
                found[id(value.function)] = value
    return list(found.values())


def stream_of(registry: Registry, given: Stream[Any] | str) -> Stream[Any]:
    """The token of a stream. A name alone is a stream of any type, unless a token of that name is registered."""
    if isinstance(given, Stream):
        return given
    known = registry.tokens("stream").get(check_name("stream", given))
    return known if known is not None else Stream(check_name("stream", given))


def flatten(entries: Iterable[object]) -> Iterator[object]:
    """The entries of lists, tuples and blueprints, one by one."""
    for entry in entries:
        if isinstance(entry, list | tuple | set | frozenset):
            yield from flatten(entry)  # pyright: ignore[reportUnknownArgumentType]
        elif hasattr(entry, "__chimpbase_entries__"):
            yield from flatten(entry.__chimpbase_entries__())  # type: ignore[attr-defined]
        else:
            yield entry


def _found(kind: str, name: object, known: Mapping[str, T]) -> T:
    if not isinstance(name, str):
        raise UsageError(f"A {type(name).__name__} is no {kind}. Give its definition, its token or its name.")
    try:
        return known[name]
    except KeyError:
        raise NotRegistered(kind, name, known) from None
