"""Tokens: a durable name and the type of what travels under it.

A token lets a producer name a queue, event or signal without importing who handles it. Tokens are invariant in their
payload type, so a wrong payload is a type error where it is sent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_name
from chimpbase._core.topics import check_pattern
from chimpbase._core.values import INTERNAL_QUEUES

R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Any], Any])


class Token(Generic[T]):
    """A name and a payload type. Equal names of one kind are the same thing in the database."""

    kind = "token"

    # three overloads, because `type[T] | Any` makes a type checker infer Token[Any] for every type
    @overload
    def __init__(self: Token[Any], name: str) -> None: ...
    @overload
    def __init__(self, name: str, type: type[T]) -> None: ...
    @overload
    def __init__(self, name: str, type: Any) -> None: ...
    def __init__(self, name: str, type: Any = Any) -> None:
        self.name = check_name(self.kind, name)
        self._check_reserved()
        self.type: Any = type
        self.codec: Codec[T] = codec_for(type)

    def _check_reserved(self) -> None:
        """Refuse a name that belongs to the runtime."""

    def traits(self) -> tuple[Any, ...]:
        """What two tokens of one name must have in common."""
        return (self.type,)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, {getattr(self.type, '__name__', self.type)})"


class Queue(Token[T]):
    """Where jobs of one kind wait. The name is the durable identity of the jobs; one worker handles them.

    `version` is that of the payload's shape. Raise it when jobs that wait would not fit a new shape any more, and say
    with `upcast` how the old ones are read.

    Example:
        >>> ships = Queue("order.ship", dict, version=2)
        >>> @ships.upcast(from_version=1)
        ... def with_country(old: dict) -> dict:
        ...     return {**old, "country": "PT"}
        >>> ships.name, ships.version
        ('order.ship', 2)
    """

    kind = "queue"

    @overload
    def __init__(self: Queue[Any], name: str, *, version: int = 1) -> None: ...
    @overload
    def __init__(self, name: str, type: type[T], *, version: int = 1) -> None: ...
    @overload
    def __init__(self, name: str, type: Any, *, version: int = 1) -> None: ...
    def __init__(self, name: str, type: Any = Any, *, version: int = 1) -> None:
        super().__init__(name, type)
        self.version = _version(version, f"Queue({name!r}, version=)")
        self.upcasts: dict[int, Callable[[Any], Any]] = {}

    def upcast(self, *, from_version: int) -> Callable[[F], F]:
        """Say how a payload of an older version becomes one of the next: a function of JSON types.

        Several are chained, 1 to 2 to 3. What it raises makes the job unreadable, so let it raise for what cannot be.

        Raises:
            UsageError: there is one from that version already, or nothing after it.
        """
        if _version(from_version, "from_version") >= self.version:
            raise UsageError(f"{self!r} has version {self.version}: nothing is to be upcast from {from_version}.")
        if from_version in self.upcasts:
            raise UsageError(f"{self!r} has an upcast from version {from_version} already.")

        def keep(function: F) -> F:
            _check_upcast(function)
            self.upcasts[from_version] = function
            return function

        return keep

    def traits(self) -> tuple[Any, ...]:
        """Also the version, and what reads the ones before it."""
        return (self.type, self.version, tuple(sorted(self.upcasts.items())))

    def _check_reserved(self) -> None:
        prefix = next((prefix for prefix in INTERNAL_QUEUES.values() if self.name.startswith(prefix)), None)
        if prefix:
            raise UsageError(f"Queue names that begin with {prefix!r} belong to the runtime; rename {self.name!r}.")


class Event(Token[T]):
    """A fact that is published under a topic; every subscription of that topic is owed each one.

    Example:
        >>> placed = Event("order.placed", dict)
        >>> placed.name
        'order.placed'
    """

    kind = "event"


class Topics(Event[T]):
    """A pattern of topics, to subscribe to: `order.*` for one more word, `order.#` for any number of them."""

    kind = "pattern"

    def __init__(self, name: str, type: Any = Any) -> None:
        self.name = check_pattern(name)
        self.type = type
        self.codec = codec_for(type)


class Signal(Token[T]):
    """A message to one workflow run, kept until the run waits for it.

    Example:
        >>> paid = Signal("payment", dict)
        >>> paid.name
        'payment'
    """

    kind = "signal"


class Stream(Token[T]):
    """A log of entries, read by position. `retention` or `max_bytes` limit what is kept of it, in whole days.

    Without a token a name alone is a stream of any type, so a program may have a stream for each of its things.

    Example:
        >>> audit = Stream("audit", dict, retention=timedelta(days=30))
        >>> audit.name
        'audit'
    """

    kind = "stream"

    @overload
    def __init__(
        self: Token[Any], name: str, *, retention: timedelta | float | None = ..., max_bytes: int | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, type: type[T], *, retention: timedelta | float | None = ..., max_bytes: int | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, type: Any, *, retention: timedelta | float | None = ..., max_bytes: int | None = ...
    ) -> None: ...
    def __init__(
        self,
        name: str,
        type: Any = Any,
        *,
        retention: timedelta | float | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(name, type)
        day = timedelta(days=1)
        self.retention = None if retention is None else seconds(retention, subject="retention", minimum=day)
        if max_bytes is not None and (isinstance(max_bytes, bool) or not 0 < _whole(max_bytes) < 2**63):
            raise UsageError(f"max_bytes must be a whole number of bytes from 1, not {max_bytes!r:.40}.")
        self.max_bytes = max_bytes

    def traits(self) -> tuple[Any, ...]:
        """See `Token.traits`."""
        return (self.type, self.retention, self.max_bytes)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


class Update(Token[T], Generic[T, R]):
    """A request to one running workflow, answered by it with a value of `result`.

    Example:
        >>> set_quantity = Update("set-quantity", int, bool)
        >>> set_quantity.name
        'set-quantity'
    """

    kind = "update"

    def __init__(self, name: str, type: type[T], result: type[R]) -> None:
        super().__init__(name, type)
        self.result_codec: Codec[R] = codec_for(result)


def _version(value: int, what: str) -> int:
    if type(value) is not int or not 1 <= value < 2**31:
        raise UsageError(f"{what} must be a whole number from 1, not {value!r:.40}.")
    return value


def _check_upcast(function: object) -> None:
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise UsageError(f"An upcast is a plain function of one payload, not {function!r:.60}.")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UsageError(f"An upcast takes the older payload and nothing else: {error}.") from None
    except ValueError:  # one of the built-in functions that cannot be asked
        return
