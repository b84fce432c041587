"""The options of starting a run, checked once for every door through which runs are started."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict, cast

import msgspec

from chimpbase._core.codec import Codec, codec_for
from chimpbase._core.durations import seconds
from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_key
from chimpbase._core.values import OnConflict

_ATTRIBUTES: Codec[dict[str, Any]] = codec_for(dict[str, Any])
_ON_CONFLICT = ("fail", "use_existing", "replace")
_ON_PARENT_CLOSE = ("cancel", "abandon")


class RunOptions(TypedDict, total=False):
    """How a run starts. `priority` is lower for what runs first; `key` is what limits and order go by."""

    on_conflict: OnConflict
    delay: timedelta | float | None
    priority: int
    key: str | None
    attributes: Mapping[str, Any] | None


_NAMES = frozenset(RunOptions.__annotations__)


def read_options(options: RunOptions, **more: Any) -> tuple[timedelta | None, str]:
    """The delay, and the others as JSON text for the SQL function `start_run`; `more` goes with them.

    Raises:
        UsageError: an option is none, or not what it must be.
    """
    if not options and not more:
        return None, "{}"
    if unknown := options.keys() - _NAMES:
        raise UsageError(
            f"workflow.start takes no option {min(unknown)!r}. It takes: {', '.join(RunOptions.__annotations__)}."
        )
    delay = options.get("delay")
    wait = None if delay is None else seconds(delay, subject="delay")
    chosen: dict[str, Any] = {name: value for name, value in more.items() if value is not None}
    conflict = options.get("on_conflict", "fail")
    if conflict not in _ON_CONFLICT:
        raise UsageError(f"on_conflict must be one of {', '.join(_ON_CONFLICT)}, not {conflict!r:.40}.")
    if conflict != "fail":
        chosen["on_conflict"] = conflict
    priority: object = options.get("priority", 0)
    if priority != 0 or isinstance(priority, bool | float):
        if isinstance(priority, bool) or not isinstance(priority, int) or not -100 <= priority <= 100:
            raise UsageError(f"priority must be a whole number from -100 to 100, not {priority!r:.40}.")
        chosen["priority"] = priority
    if (key := options.get("key")) is not None:
        chosen["key"] = check_key("key", key)
    if (attributes := options.get("attributes")) is not None:
        chosen["attributes"] = msgspec.Raw(encode_attributes(attributes).encode())
    return wait, msgspec.json.encode(chosen).decode()


def encode_attributes(attributes: Mapping[str, Any]) -> str:
    """Attributes as JSON text.

    Raises:
        PayloadError: they are no object of JSON types.
    """
    given = cast("object", attributes)
    found: Any = dict(cast("Mapping[str, Any]", given)) if isinstance(given, Mapping) else given
    return _ATTRIBUTES.encode(found, subject="attributes")


def check_parent_close(value: str) -> str:
    """What becomes of a child when its parent ends.

    Raises:
        UsageError: it is neither "cancel" nor "abandon".
    """
    if value not in _ON_PARENT_CLOSE:
        raise UsageError(f"on_parent_close must be one of {', '.join(_ON_PARENT_CLOSE)}, not {value!r:.40}.")
    return value
