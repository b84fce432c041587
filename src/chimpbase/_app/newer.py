"""A job that newer code enqueued, in the hands of a process that cannot read it."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from chimpbase._app.payload_reading import version_of
from chimpbase._app.tokens import Queue
from chimpbase._core.outcomes import Snooze
from chimpbase._engine.attempt import Attempt

_WAITS = timedelta(seconds=10)
_log = logging.getLogger("chimpbase.job")


def newer(attempt: Attempt, queue: Queue[Any]) -> Snooze:
    """Leave the job to a newer process, uncharged, and look again later: it may be the only one that is left."""
    _log.warning(
        "%s#%d carries a payload of version %d, and this process reads up to %d; it waits for a newer one",
        queue.name,
        attempt.job.id,
        version_of(attempt.job.headers),
        queue.version,
    )
    return Snooze(_WAITS)
