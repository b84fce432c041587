"""Testing: an app rehearsed on real PostgreSQL, step by step, on a clock that the test moves.

Nothing runs in the background. The names are loaded when they are first asked for, because pytest imports this package
in every project of the environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chimpbase._app.rehearsal import Drained, Failure
    from chimpbase.testing.journals import replay
    from chimpbase.testing.rehearsal import Rehearsal, rehearse

__all__ = ["Drained", "Failure", "Rehearsal", "rehearse", "replay"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from chimpbase._app import rehearsal as app_room
    from chimpbase.testing import journals, rehearsal

    return next(getattr(room, name) for room in (rehearsal, journals, app_room) if hasattr(room, name))
