"""The runtime: one app, running. The composition root, where every room below is built and wired, once.

Start: database, schema, names, engine, edges. Stop: the same, backwards. What was started before an error is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from chimpbase._app.activations import impurities, migrating
from chimpbase._app.backstage import Backstage
from chimpbase._app.collection_indexes import create_all
from chimpbase._app.config import read_secrets, read_settings
from chimpbase._app.consuming import consuming_of, declare_consumers
from chimpbase._app.crew import Crew
from chimpbase._app.ctx import Ctx
from chimpbase._app.declare import declare
from chimpbase._app.definitions import Action, Consumer
from chimpbase._app.edges import Edge, EdgeEntry, make_edge
from chimpbase._app.handlers import handling, queue_spec
from chimpbase._app.hearing import hear
from chimpbase._app.invoke import invoke
from chimpbase._app.origin import Origin
from chimpbase._app.payload_versions import check_upcasts, check_waiting
from chimpbase._app.registry import Registry, forgotten
from chimpbase._app.schema import bring_up_to_date
from chimpbase._app.threads import Threads
from chimpbase._app.unit import Unit
from chimpbase._core.settings import Settings
from chimpbase._core.values import QueueId
from chimpbase._engine.consumer import Consuming
from chimpbase._engine.engine import CHANNEL, Engine, Identity, Pace
from chimpbase._engine.keepers import ServerKeeper
from chimpbase._pg.bell import Bell
from chimpbase._pg.db import Db
from chimpbase._pg.dsn import effective_dsn, redact
from chimpbase._pg.embedded import EmbeddedServer
from chimpbase._pg.listener import Listener
from chimpbase._pg.losses import through_losses

T = TypeVar("T")
_log = logging.getLogger("chimpbase.runtime")
_LOOK_S = 2.0
_LANES = 6

#: The engine's own statements are few and all go by index; left to itself the planner once took a table that was empty
#: when it planned for one that always is, and read it whole for each of a million jobs.
_PINNED = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # an admission counts what runs after it has waited for its turn, and must not count as of before
    "default_transaction_isolation": "read committed",
}
_HANDLERS = {"idle_in_transaction_session_timeout": "30s"}


class Program(Protocol):
    """The part of an App that a runtime needs."""

    name: str
    registry: Registry
    edge_entries: list[EdgeEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The database in use. `embedded` when it is the private one; `url` has no password in it."""

    url: str
    dsn: str = field(repr=False)
    version: str
    embedded: bool
    migrations: tuple[str, ...]


class Runtime:
    """A running app. Made by `App.running`."""

    def __init__(self, app: Program, *, overrides: Mapping[str, Any], workers: bool, http: bool, project: Path) -> None:
        self.app = app
        self.project = project
        self.workers, self.http = workers, http
        self.settings: Settings = read_settings(overrides, environ=os.environ, project=project)
        self.edges: dict[str, Edge] = {}
        self.started_in = timedelta(0)
        self._stopping_since: float | None = None
        self._random = random.Random()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rooms = AsyncExitStack()
        self._database: Database | None = None
        self._backstage: Backstage | None = None
        self._db: Db | None = None
        self._lanes: Db | None = None

    async def start(self) -> None:
        """Build and start everything, in order."""
        began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        try:
            await self._start()
        except BaseException:
            await self._rooms.aclose()
            raise
        self.started_in = timedelta(seconds=time.monotonic() - began)

    async def stop(self) -> None:
        """Stop everything, in the reverse order, within one grace. Idempotent."""
        self._stopping_since = self._stopping_since or time.monotonic()
        await self._rooms.aclose()

    async def _stop_engine(self, engine: Engine) -> None:
        # what the edges took of the grace is gone: a stop takes one grace, not one for each room
        spent = time.monotonic() - (self._stopping_since or time.monotonic())
        await engine.stop(grace=max(timedelta(0), self.settings.grace - timedelta(seconds=spent)))

    # What edges and the app ask

    @property
    def database(self) -> Database:
        """The database in use."""
        assert self._database is not None  # a runtime is only handed out once it has started
        return self._database

    @property
    def address(self) -> str | None:
        """Where HTTP is served, such as `http://127.0.0.1:8000`; None when it is not."""
        edge = self.edges.get("http")
        return edge.address if edge else None

    async def call(self, action: Action[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Run an action in a transaction of its own. See `App.call`."""
        return await self.call_traced(None, action, args, kwargs)

    async def call_traced(
        self, trace: str | None, action: Action[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """As `call`, continuing a trace (32 hexadecimal digits) that began outside."""
        backstage = self._stage()
        definition = backstage.registry.action(action) if isinstance(action, str) else action
        origin = Origin(
            title=definition.title,
            name=definition.name,
            trace=trace,
            new_trace=backstage.new_trace,
            cause=f"action:{definition.name}",
        )
        async with backstage.unit(origin.title) as unit:
            return await invoke(backstage, definition, Ctx(backstage, unit.root, origin), args, kwargs)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Ctx]:
        """A ctx in a transaction of its own. See `App.transaction`."""
        backstage = self._stage()
        name = f"transaction of {self.app.name}"
        origin = Origin(title=name, name=self.app.name, cause=f"app:{self.app.name}", new_trace=backstage.new_trace)
        async with backstage.unit(name) as unit:
            yield Ctx(backstage, unit.root, origin)

    @property
    def ctx(self) -> Ctx:
        """A ctx outside any transaction. See `App.ctx`."""
        backstage, name = self._stage(), f"app {self.app.name!r}"
        origin = Origin(title=name, name=self.app.name, cause=f"app:{self.app.name}", new_trace=backstage.new_trace)
        return Ctx(backstage, Unit(backstage.db, title=name, transaction=False).root, origin)

    def wake(
        self,
        queues: Collection[QueueId],
        *,
        later_s: float | None,
        look: bool = False,
        streams: Collection[int] = (),
        announced: bool = False,
    ) -> None:
        """These queues may have ready jobs, committed by now, and one may fall due in that time. From any thread.

        `streams` have new entries. With `look` something else was changed that processes go by; with `announced`
        something was broadcast.
        """
        loop, backstage = self._loop, self._backstage
        if loop is None or backstage is None or loop.is_closed():
            return
        engine = backstage.engine

        def tell() -> None:
            engine.ready(queues)
            engine.appended(streams)
            if later_s is not None:
                engine.later(later_s)
            if look:
                engine.look()
            if announced:
                engine.announced()

        loop.call_soon_threadsafe(tell)

    async def check(self) -> None:
        """Whether the database answers and its schema is the one this code needs.

        Raises:
            DatabaseError: it does not.
        """
        assert self._lanes is not None
        # not on the handlers' connections: that they are all busy does not make the process unfit
        await self._bring_up_to_date(self._lanes, apply=False)

    # Starting

    async def _start(self) -> None:
        check_upcasts(self.app.registry)
        dsn, server = await self._find_database()
        db = self._db = await self._open(dsn, size=self.settings.pool_size, role="app", session=_HANDLERS, json=True)
        applied = await self._surely("updating the schema", lambda: self._bring_up_to_date(db, apply=True))
        number = self._db.server_version
        self._database = Database(
            url=redact(dsn),
            dsn=dsn,
            version=f"{number // 10000}.{number % 10000}",
            embedded=server is not None,
            migrations=tuple(applied),
        )
        engine = await self._build_engine(dsn)
        self._backstage = self._build_backstage(self._db, engine)
        definitions = self.app.registry.queued()
        ids = await self._surely("declaring the app's names", lambda: declare(db, self.app.registry))
        self._backstage.learn_queues(ids)
        collections = self.app.registry.tokens("collection").values()
        await self._surely("making indexes", lambda: create_all(self._lanes or db, collections))
        await self._start_hearing(engine)
        if self.workers:
            concurrency = self.settings.concurrency
            handlings = [
                handling(self._backstage, one, ids[queue_spec(one).name], concurrency=concurrency)
                for one in definitions
            ]
            handlings += migrating(self._backstage, ids)
            self._rooms.push_async_callback(self._stop_engine, engine)
            await engine.start(handlings, await self._surely("declaring consumers", self._consumings))
            await self._look_at_payloads(self._db)
        for warning in impurities(self.app.registry):
            _log.warning("%s", warning)
        for lost in forgotten(self.app.registry):
            _log.warning("%s is defined but not registered; add it to App(register=[...])", lost.title)
        if self.http:
            await self._start_edge("http")

    async def _bring_up_to_date(self, db: Db, *, apply: bool) -> list[str]:
        return await bring_up_to_date(
            db, project=self.project, settings=self.settings, random=self._random, apply=apply
        )

    async def _surely(self, what: str, stage: Callable[[], Awaitable[T]]) -> T:
        """A stage of the start, which a lost connection does not end."""
        return await through_losses(stage, what=what, random=self._random.random)

    async def _start_hearing(self, engine: Engine) -> None:
        """Hear what other processes say, also in one that works no queues."""
        poll_s, random = self.settings.poll.total_seconds(), self._random.random
        await hear(self._stage(), self._lanes or self._stage().db, self._rooms, poll_s=poll_s, random=random)
        if not self.workers and (self.app.registry.on_broadcasts or self.http):
            engine.listen()
            self._rooms.push_async_callback(engine.turn_deaf)

    async def _look_at_payloads(self, db: Db) -> None:
        """For a moment at most, and that it fails keeps nobody from starting."""
        try:
            async with asyncio.timeout(_LOOK_S):
                await check_waiting(db, self.app.registry)
        except Exception as error:
            _log.warning("waiting jobs were not compared with the types of their queues: %s", error)

    async def _consumings(self) -> list[Consuming]:
        definitions = [
            cast("Consumer[Any]", one) for one in self.app.registry.definitions() if isinstance(one, Consumer)
        ]
        declared = await declare_consumers(self._stage().db, definitions)
        return [await consuming_of(self._stage(), one, declared[one.name]) for one in definitions]

    async def _find_database(self) -> tuple[str, EmbeddedServer | None]:
        dsn = effective_dsn(self.settings.database_url, environ=os.environ)
        if dsn is not None:
            return dsn, None
        binaries = Path(self.settings.postgres_bin) if self.settings.postgres_bin else None
        server = await EmbeddedServer.start(
            self.project / self.settings.data_directory, binaries=binaries, environ=os.environ
        )
        self._rooms.push_async_callback(server.stop)
        keeper = ServerKeeper(server.ensure, random=self._random.random)
        self._rooms.push_async_callback(keeper.stop)
        keeper.start()
        return server.dsn, server

    async def _open(self, dsn: str, *, size: int, role: str, session: Mapping[str, str], json: bool = False) -> Db:
        def open_db() -> Awaitable[Db]:
            return Db.open(
                dsn,
                size=size,
                budget=self.settings.statement_budget,
                session=session,
                application_name=f"chimpbase {self.app.name} {role}",
                json=json,
                random=random.Random(),
            )

        dice, first = self._random.random, self._db is None  # only the first one of all tells a wrong address
        db = await through_losses(open_db, what="connecting", random=dice, unless_unanswered=first)
        self._rooms.push_async_callback(db.close, grace=timedelta(seconds=1))
        return db

    async def _build_engine(self, dsn: str) -> Engine:
        settings = self.settings
        lanes = self._lanes = await self._open(dsn, size=_LANES, role="engine", session=_PINNED)
        notify = settings.notify and not lanes.pooled
        bell = Bell(lanes, CHANNEL) if notify else None
        if bell is not None:
            self._rooms.push_async_callback(bell.close)

        def listen(hear: Callable[[str], None], gap: Callable[[], None]) -> Listener:
            return Listener(lanes.connector, CHANNEL, on_notify=hear, on_gap=gap, random=random.Random())

        async def open_heart() -> Db:
            return await Db.open(
                dsn,
                size=1,
                budget=settings.lease / 3,
                connect_timeout=settings.lease / 3,
                checkout_timeout=settings.lease / 3,
                session=_PINNED,
                application_name=f"chimpbase {self.app.name} heart",
                random=random.Random(),
            )

        return Engine(
            lanes,
            identity=Identity(app=self.app.name, pid=os.getpid(), version=_version()),
            pace=Pace(
                lease=settings.lease,
                poll=settings.poll,
                grace=settings.grace,
                dead_retention=settings.dead_retention,
                run_retention=settings.run_retention,
                event_retention=settings.event_retention,
            ),
            open_heart_db=open_heart,
            make_listener=listen if notify else None,
            bell=bell,
            random=self._random.random,
        )

    def _build_backstage(self, db: Db, engine: Engine) -> Backstage:
        threads = Threads(self.settings.threads, name="chimpbase")
        self._rooms.callback(threads.shutdown)
        crew = Crew()
        self._rooms.push_async_callback(asyncio.to_thread, crew.stop)
        traces = random.Random()
        return Backstage(
            db=db,
            lanes=self._lanes or db,
            engine=engine,
            registry=self.app.registry,
            secrets=read_secrets(self.settings, environ=os.environ, project=self.project),
            threads=threads,
            crew=crew,
            new_id=lambda: str(uuid.uuid4()),
            # an id to tell things apart, no secret: the system's randomness costs a call of it for each
            new_trace=lambda: f"{traces.getrandbits(128):032x}",
        )

    async def _start_edge(self, name: str) -> None:
        entries = [entry for entry in self.app.edge_entries if entry.__chimpbase_edge__ == name]
        edge = make_edge(name, self, entries)
        self._rooms.push_async_callback(edge.stop)
        await edge.start()
        self.edges[name] = edge

    def _stage(self) -> Backstage:
        assert self._backstage is not None  # a runtime is only handed out once it has started
        return self._backstage


def _version() -> str:
    try:
        return version("chimpbase")
    except PackageNotFoundError:
        return "0"
