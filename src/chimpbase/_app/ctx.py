"""Ctx: what a handler is given. It is the unit of work, and carries every verb.

`ctx.db`, `ctx.queue` and everything else of `Clients` act in one transaction, opened by the first of them and committed
when the handler returns, together with the completion of the job that called it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from chimpbase._app.ctx_clients import Clients
from chimpbase._app.frame import AfterCommit, Frame
from chimpbase._app.invoke import invoke
from chimpbase._app.origin import Job, Origin, RunningJob, running
from chimpbase._app.pubsub_client import PubSubClient
from chimpbase._core.errors import NotFound, UsageError

if TYPE_CHECKING:
    from chimpbase._app.definitions import Action, Step, Subscription
    from chimpbase._app.stage import Stage

P = ParamSpec("P")
R = TypeVar("R")


class Ctx(Clients):
    """The context of one call. Not to be kept after the handler returns, nor made by hand."""

    __slots__ = ()

    @property
    def pubsub(self) -> PubSubClient:
        """Publish events."""
        return PubSubClient(self._backstage, self._frame, self._origin, _run_inline)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs of a batch, in the order of their payloads; elsewhere the one that is run, or none."""
        return self._origin.jobs

    @property
    def job(self) -> RunningJob:
        """The job being run.

        Raises:
            UsageError: this call was not made by a job.
        """
        job, claimed = self._origin.job, self._origin.claimed
        if job is None or claimed is None:
            if self._origin.jobs:
                raise UsageError(f"{self._origin.title} runs a batch of jobs; ask ctx.jobs.")
            raise UsageError(f"{self._origin.title} was not called by a job, so it has no ctx.job.")
        stage = self._backstage
        return running(
            RunningJob, job, lambda fraction, note: stage.report(claimed.id, claimed.attempt, fraction, note)
        )

    @property
    def idempotency_key(self) -> str:
        """The same text in every attempt of this job or step, and in no other: for calls to the outside.

        Raises:
            UsageError: this call is not repeated by anybody.
        """
        key = self._origin.idempotency_key
        if key is None:
            raise UsageError(f"{self._origin.title} was called directly, so it has no ctx.idempotency_key.")
        return key

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits shared by a request and everything it caused."""
        return self._origin.trace

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A standard logger that adds the handler's name, the trace and the job to each record."""
        logger = logging.getLogger(f"chimpbase.app.{self._origin.name}")
        data: dict[str, object] = {"trace": self._origin.trace, "in": self._origin.cause}
        return logging.LoggerAdapter(logger, {"data": data})

    def secret(self, name: str) -> str:
        """A secret by name: a file of the secrets directory, else the environment, else `.env`. Read once, at start.

        Raises:
            NotFound: there is none of that name.
        """
        value = self._backstage.secrets.get(name)
        if value is None:
            raise NotFound("secret", name)
        return value

    def on_commit(self, callback: AfterCommit) -> None:
        """Call `callback` once the transaction has committed; never, if it does not. Its errors are only logged.

        A crash between the commit and the call loses the call: what must happen belongs in a job.
        """
        self._frame.on_commit(callback)

    @overload
    async def call(self, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, action: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call(self, action: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run an action, given or by name, as part of this transaction. Its failure, if caught, takes back all it did.

        Raises:
            NotRegistered: no action of that name.
        """
        definition = self._backstage.registry.action(action) if isinstance(action, str) else action
        return await self._run_inside(definition, args, kwargs)

    async def run_step(self, step: Step[P, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """What calling a step with a ctx does: it runs as a part of this transaction, and nothing is remembered."""
        return await self._run_inside(step, args, kwargs)

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[Ctx]:
        """A part of the transaction that can fail by itself: an error that leaves the block takes back only the block.

        Use the ctx it yields inside; the outer one waits meanwhile.
        """
        async with self._inside() as inner:
            yield inner

    async def _run_inside(self, definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        async with self._inside() as inner:
            return await invoke(self._backstage, definition, inner, args, kwargs)

    @asynccontextmanager
    async def _inside(self) -> AsyncGenerator[Ctx]:
        if self._frame.unit.transactional:
            async with self._frame.nested() as frame:
                yield Ctx(self._backstage, frame, self._origin)
            return
        async with self._backstage.unit(self._origin.title) as unit:
            yield Ctx(self._backstage, unit.root, self._origin)


async def _run_inline(stage: Stage, frame: Frame, origin: Origin, subscription: Subscription[Any], event: Any) -> None:
    await invoke(stage, subscription, Ctx(stage, frame, origin), (event,), {})
