"""The seam to the edges: HTTP and its like live above this room, so they are named here and never imported.

An edge takes the entries that were registered for it, and a running runtime; it speaks to the world until it is
stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

#: Where the class of each edge is found, as module:name.
EDGES = {"http": "chimpbase.http.edge:HttpEdge"}


@runtime_checkable
class EdgeEntry(Protocol):
    """Something that `register` hands to an edge; the attribute is the edge's name."""

    __chimpbase_edge__: str


class Edge(Protocol):
    """A way for the world to reach the app."""

    async def start(self) -> None:
        """Accept the world; ready when this returns."""
        ...

    async def stop(self) -> None:
        """Accept nothing new, end what is in progress. Idempotent."""
        ...

    @property
    def address(self) -> str:
        """Where it is reached, for the banner."""
        ...


class EdgeFactory(Protocol):
    def __call__(self, runtime: Any, entries: Sequence[EdgeEntry]) -> Edge: ...


def make_edge(name: str, runtime: object, entries: Sequence[EdgeEntry]) -> Edge:
    """The edge of that name, not started."""
    module, _, attribute = EDGES[name].partition(":")
    factory = cast("EdgeFactory", getattr(import_module(module), attribute))
    return factory(runtime, entries)
