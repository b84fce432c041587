"""What `subscribe` and `on_broadcast` take beside what a worker takes, checked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from chimpbase._app.decorator_arguments import payload_type, token_of
from chimpbase._app.tokens import Event, Topics
from chimpbase._core.errors import UsageError
from chimpbase._core.topics import is_pattern

SubscriptionStart = Literal["now", "beginning"] | datetime
Dispatch = Literal["job", "inline"]


def event_of(given: Any, function: Callable[..., Any]) -> Event[Any]:
    """The token of a topic, or of a pattern of topics; a name alone has the type that the function takes."""
    return token_of(given, Event, lambda name: _topic(name, function), subject="event")


def start_of(start: Any) -> SubscriptionStart:
    """Return `start` if a subscription can begin there."""
    if start in ("now", "beginning") or (isinstance(start, datetime) and start.tzinfo is not None):
        return start
    raise UsageError(f"start must be 'now', 'beginning' or a datetime with a time zone, not {start!r:.60}.")


def dispatch_of(dispatch: Any) -> Dispatch:
    """Return `dispatch` if it is one."""
    if dispatch in ("job", "inline"):
        return dispatch
    raise UsageError(f"dispatch must be 'job' or 'inline', not {dispatch!r:.40}.")


def field_of(field: Any) -> str:
    """Return `field` if it names a field of a payload, with dots between names."""
    if isinstance(field, str) and all(field.split(".")) and "\0" not in field:
        return field
    raise UsageError(f"ordered_by names a field of the payload, such as 'customer_id', not {field!r:.60}.")


def _topic(name: str, function: Callable[..., Any]) -> Event[Any]:
    type: Any = payload_type(function)
    return Topics(name, type) if is_pattern(name) else Event(name, type)
