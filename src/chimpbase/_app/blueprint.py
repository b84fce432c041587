"""Blueprint: a named list of definitions, for apps that grow past one file. `App(register=[orders])` takes it whole."""

from __future__ import annotations

from collections.abc import Sequence

from chimpbase._app.registry import flatten
from chimpbase._core.names import check_name


class Blueprint:
    """Definitions, tokens and other blueprints that belong together. It knows no app, so two apps may share it.

    Example:
        >>> orders = Blueprint("orders")
        >>> orders.register([])
    """

    def __init__(self, name: str, register: Sequence[object] = ()) -> None:
        self.name = check_name("blueprint", name)
        self._entries: list[object] = []
        self.register(register)

    def register(self, *entries: object) -> None:
        """Add definitions, tokens, lists of them, or blueprints."""
        self._entries += flatten(entries)

    def __chimpbase_entries__(self) -> Sequence[object]:
        return tuple(self._entries)

    def __repr__(self) -> str:
        return f"Blueprint({self.name!r}, {len(self._entries)} entries)"
