"""The name of the queue behind whatever a caller gave: a token, a definition, or the name itself."""

from __future__ import annotations

from typing import Any

from chimpbase._app.definitions import Cron, Subscription, Worker, Workflow
from chimpbase._app.tokens import Queue
from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_key
from chimpbase._core.values import INTERNAL_QUEUES


def queue_name(given: Any) -> str:
    """The name of a queue; whether there is one is for the database to say.

    Raises:
        UsageError: it is neither a token, a definition with a queue, nor a name that could be one.
    """
    match given:
        case str():
            return check_key("queue name", given)
        case Queue():
            return given.name
        case Worker():
            return given.name
        case Subscription():
            return INTERNAL_QUEUES["delivery"] + given.name
        case Cron():
            return INTERNAL_QUEUES["occurrence"] + given.name
        case Workflow():
            return f"{INTERNAL_QUEUES['activation']}{given.name}@{given.version}"
        case _:
            raise UsageError(
                f"A queue is given by its name, its token, or the worker, subscription, schedule or workflow that it "
                f"belongs to, not {given!r:.60}."
            )
