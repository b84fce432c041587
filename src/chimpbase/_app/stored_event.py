"""An event as it is stored, for whoever looks at what was published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """What was published when, and by what: `cause` names the call that did, `trace` all that it belongs to."""

    id: int
    topic: str
    payload: Any
    published_at: datetime
    trace: str | None
    cause: str | None


def stored_event(row: dict[str, object]) -> StoredEvent:
    """An event from the columns of its row."""
    headers: dict[str, Any] = msgspec.json.decode(cast("str", row["headers"])) if row["headers"] else {}
    return StoredEvent(
        id=cast("int", row["id"]),
        topic=cast("str", row["topic"]),
        payload=msgspec.json.decode(cast("str", row["payload"])),
        published_at=cast("datetime", row["published_at"]),
        trace=headers.get("trace"),
        cause=headers.get("cause"),
    )
