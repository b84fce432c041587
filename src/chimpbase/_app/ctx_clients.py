"""Clients: the verbs that hang on a ctx, by what they act on. Each is made when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chimpbase._app.collection_client import Collections
from chimpbase._app.cron_client import CronClient
from chimpbase._app.db_client import DbClient
from chimpbase._app.kv_client import KvClient
from chimpbase._app.kv_values import PLAIN
from chimpbase._app.origin import Origin
from chimpbase._app.pubsub_client import PubSubClient
from chimpbase._app.queue_client import QueueClient
from chimpbase._app.stream_client import StreamClient
from chimpbase._app.unit import Frame
from chimpbase._app.workflows import WorkflowClient

if TYPE_CHECKING:
    from chimpbase._app.stage import Stage


class Clients:
    """What every ctx has, whatever it is the ctx of. Most handlers use one or two of them."""

    __slots__ = ("_backstage", "_cron", "_db", "_frame", "_kv", "_origin", "_pubsub", "_queue", "_stream", "_workflow")

    def __init__(self, backstage: Stage, frame: Frame, origin: Origin) -> None:
        self._backstage, self._frame, self._origin = backstage, frame, origin
        self._db: DbClient | None = None
        self._queue: QueueClient | None = None
        self._pubsub: PubSubClient | None = None
        self._workflow: WorkflowClient | None = None
        self._kv: KvClient[Any] | None = None
        self._cron: CronClient | None = None
        self._stream: StreamClient | None = None

    @property
    def db(self) -> DbClient:
        """The application's own SQL."""
        client = self._db = self._db or DbClient(self._frame)
        return client

    @property
    def queue(self) -> QueueClient:
        """Enqueue jobs."""
        client = self._queue = self._queue or QueueClient(self._backstage, self._frame, self._origin)
        return client

    @property
    def workflow(self) -> WorkflowClient:
        """Start, signal and look at runs."""
        client = self._workflow = self._workflow or WorkflowClient(self._backstage, self._frame, self._origin)
        return client

    @property
    def kv(self) -> KvClient[Any]:
        """Keys and values."""
        client = self._kv = self._kv or KvClient(self._backstage, self._frame, PLAIN)
        return client

    @property
    def cron(self) -> CronClient:
        """Make, change, pause and run schedules."""
        client = self._cron = self._cron or CronClient(self._backstage, self._frame, self._origin)
        return client

    @property
    def collection(self) -> Collections:
        """Documents."""
        return Collections(self._backstage, self._frame)

    @property
    def stream(self) -> StreamClient:
        """Append to streams and read them."""
        client = self._stream = self._stream or StreamClient(self._backstage, self._frame, self._origin)
        return client
