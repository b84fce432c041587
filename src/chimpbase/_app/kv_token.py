"""KV: the token of a namespace of keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar, overload

from chimpbase._app.tokens import Token
from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError

T = TypeVar("T")

SHORTEST_TTL = timedelta(milliseconds=1)


class KV(Token[T]):
    """A namespace of keys, the type of their values, and how long they last.

    `ttl` (seconds if a number) is for every set that gives none of its own; without it they last for ever. With
    `cache` the pairs live in an unlogged table: several times as fast to set, emptied by a crash of the server.

    Example:
        >>> quotes = KV("quotes", float, ttl=timedelta(minutes=5), cache=True)
        >>> quotes.name
        'quotes'
    """

    kind = "namespace"

    @overload
    def __init__(self: KV[Any], name: str, *, ttl: timedelta | float | None = None, cache: bool = False) -> None: ...
    @overload
    def __init__(
        self, name: str, type: type[T], *, ttl: timedelta | float | None = None, cache: bool = False
    ) -> None: ...
    @overload
    def __init__(self, name: str, type: Any, *, ttl: timedelta | float | None = None, cache: bool = False) -> None: ...
    def __init__(
        self, name: str, type: Any = Any, *, ttl: timedelta | float | None = None, cache: bool = False
    ) -> None:
        super().__init__(name, type)
        self.ttl = None if ttl is None else seconds(ttl, subject="ttl", minimum=SHORTEST_TTL)
        if not isinstance(cache, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"cache must be True or False, not {cache!r:.40}.")
        self.cache = cache

    def traits(self) -> tuple[Any, ...]:
        """See `Token`."""
        return self.type, self.ttl, self.cache
