"""Clients: the verbs that hang on a ctx, by what they act on. Each is made when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chimpbase._app.collection_client import Collections
from chimpbase._app.cron_client import CronClient
from chimpbase._app.db_client import DbClient
from chimpbase._app.kv_client import KvClient
from chimpbase._app.kv_values import PLAIN
from chimpbase._app.origin import Origin
from chimpbase._app.queue_client import QueueClient
from chimpbase._app.stream_client import StreamClient
from chimpbase._app.unit import Frame
from chimpbase._app.workflows import WorkflowClient

if TYPE_CHECKING:
    from chimpbase._app.stage import Stage


class Clients:
    """What every ctx has, whatever it is the ctx of. Most handlers use one or two of them."""

    __slots__ = ("_backstage", "_frame", "_origin")

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin

    @property
    def db(self) -> DbClient:
        """The application's own SQL."""
        return DbClient(self._frame)

    @property
    def queue(self) -> QueueClient:
        """Enqueue jobs."""
        return QueueClient(self._backstage, self._frame, self._origin)

    @property
    def workflow(self) -> WorkflowClient:
        """Start, signal and look at runs."""
        return WorkflowClient(self._backstage, self._frame, self._origin)

    @property
    def kv(self) -> KvClient[Any]:
        """Keys and values."""
        return KvClient(self._backstage, self._frame, PLAIN)

    @property
    def cron(self) -> CronClient:
        """Make, change, pause and run schedules."""
        return CronClient(self._backstage, self._frame, self._origin)

    @property
    def collection(self) -> Collections:
        """Documents."""
        return Collections(self._backstage, self._frame)

    @property
    def stream(self) -> StreamClient:
        """Append to streams and read them."""
        return StreamClient(self._backstage, self._frame, self._origin)
