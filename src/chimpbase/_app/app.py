"""App: a name and a list of definitions. It holds no connection until it runs; several live in one process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

from chimpbase._app.bind import AsyncCommits, Asyncpg, BoundCtx, BoundSyncCtx, SyncCommits, bind
from chimpbase._app.ctx import Ctx
from chimpbase._app.decorators import Decorators
from chimpbase._app.definitions import Action, Definition
from chimpbase._app.edges import EdgeEntry
from chimpbase._app.registry import Registry, flatten
from chimpbase._app.runtime import Runtime
from chimpbase._core.errors import NotStarted, UsageError
from chimpbase._core.names import check_name

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound=Definition)


class App(Decorators):
    """The whole of one program: what it can do, by name.

    `register` takes definitions, tokens, lists of them, blueprints and routes; the list is the truth. The decorators
    that hang on the app define and register at once, for programs of one file.

    Example:
        >>> app = App("shop")
        >>> @app.action
        ... async def greet(ctx: Ctx, who: str) -> str:
        ...     return f"hello {who}"
        >>> [definition.name for definition in app.definitions()]
        ['greet']
    """

    def __init__(self, name: str, register: Sequence[object] = ()) -> None:
        self.name = check_name("app", name)
        self.registry = Registry()
        self.edge_entries: list[EdgeEntry] = []
        self._runtime: Runtime | None = None
        self.register(register)

    def __repr__(self) -> str:
        return f"App({self.name!r}, {sum(1 for _ in self.definitions())} definitions)"

    def register(self, *entries: object) -> None:
        """Add definitions, tokens, lists of them, blueprints or routes.

        Raises:
            AlreadyRegistered: two definitions of one kind have the same name.
            UsageError: something else was given, or the app is running.
        """
        if self._runtime is not None:
            raise UsageError(f"App {self.name!r} is running; register everything before it starts.")
        for entry in flatten(entries):
            if isinstance(entry, EdgeEntry):
                self.edge_entries.append(entry)
                for needed in getattr(entry, "needs", ()):
                    self.registry.add(needed)
            else:
                self.registry.add(entry)

    def definitions(self) -> Sequence[Definition]:
        """Everything registered, by kind and then by name."""
        return list(self.registry.definitions())

    @asynccontextmanager
    async def running(
        self,
        *,
        database_url: str | None = None,
        workers: bool = True,
        http: bool = False,
        project: Path | None = None,
        **settings: Any,
    ) -> AsyncGenerator[Runtime]:
        """Start everything, and stop it cleanly when the block is left.

        Without a `database_url` here, in `DATABASE_URL` or in the `PG*` variables, a private PostgreSQL is started in
        the project (default: the current directory) and stopped with the block. `workers=False` runs no jobs.
        `settings` are those of `chimpbase config`, such as `lease` or `port`.

        Raises:
            ConfigError: a setting is wrong.
            Unreachable: the database cannot be reached.
            SchemaError: the database's schema does not fit this code.
        """
        if database_url is not None:
            settings["database_url"] = database_url
        runtime = Runtime(self, overrides=settings, workers=workers, http=http, project=project or Path.cwd())
        async with self._run(runtime):
            yield runtime

    @asynccontextmanager
    async def _run(self, runtime: Runtime) -> AsyncGenerator[None]:
        if self._runtime is not None:
            raise UsageError(f"App {self.name!r} is running already.")
        self._runtime = runtime
        try:
            await runtime.start()
            yield
        finally:
            self._runtime = None
            await runtime.stop()

    @overload
    async def call(self, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, action: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call(self, action: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run an action, given or by name, in a transaction of its own. Returns once it has committed.

        Raises:
            NotStarted: the app does not run.
            NotRegistered: no action of that name.
            OutcomeUnknown: the connection died during the commit.
        """
        return await self._running().call(action, *args, **kwargs)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Ctx]:
        """A ctx with every verb, in a transaction that commits when the block is left normally.

        Raises:
            NotStarted: the app does not run.
        """
        async with self._running().transaction() as ctx:
            yield ctx

    @overload
    def bind(self, connection: AsyncCommits | Asyncpg) -> BoundCtx: ...
    @overload
    def bind(self, connection: SyncCommits) -> BoundSyncCtx: ...
    @overload
    def bind(self, connection: object) -> Any: ...
    def bind(self, connection: Any) -> Any:
        """A ctx that rides the transaction of a connection or session of yours. It never begins, commits or rolls back.

        What is enqueued, published, started, signalled and set with it exists if and only if your transaction
        commits, and an action called with it runs inside, under a savepoint. asyncpg's connections, and the
        asynchronous ones of psycopg and SQLAlchemy, give a `Ctx`; psycopg's and SQLAlchemy's synchronous ones and
        Django's `connection`, inside `atomic()`, give a `SyncCtx` that needs no event loop. A connection that
        commits each statement by itself is refused when it is first used. Values of rows are as your driver makes
        them, but json is always Python objects.

        The app need not run here. Its queues and workflows must be in that database, which they are once a process
        of it has started there. Workers notice the work within `poll` (1 s) of the commit; where the app runs in
        this process they notice at once with sessions of SQLAlchemy and with Django, elsewhere after `ctx.wake()`.
        `ctx.on_commit` needs a library that tells of its commits, too.

        Raises:
            UsageError: `connection` is none of these.
        """
        return bind(connection, name=self.name, registry=self.registry, running=lambda: self._runtime)

    @property
    def ctx(self) -> Ctx:
        """A ctx outside any transaction: each verb commits by itself before it returns.

        What many callers enqueue this way at the same moment shares one commit, so it is also the fastest way.

        Raises:
            NotStarted: the app does not run.
        """
        return self._running().ctx

    def _running(self) -> Runtime:
        if self._runtime is None:
            raise NotStarted(f"App {self.name!r} does not run. Do this inside `async with app.running():`.")
        return self._runtime

    def _keep(self, definition: D) -> D:
        self.register(definition)
        return definition
