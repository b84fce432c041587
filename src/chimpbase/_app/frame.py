"""Frames: the levels of a unit of work. The root is the handler; each action called inside gets one of its own.

A frame runs alone: while an inner one is open the outer one waits, so concurrent calls inside one handler take turns
and savepoints always nest.

Invariant: what a frame asked to happen after the commit happens only if the frame ended well and the root committed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol

from chimpbase._core.errors import DatabaseError, UsageError
from chimpbase._core.values import CarriedJob
from chimpbase._pg.connection import Connection
from chimpbase._pg.db import Transactional
from chimpbase._pg.turns import Turns

_innermost: ContextVar[Frame | None] = ContextVar("chimpbase_frame", default=None)

AfterCommit = Callable[[], "Awaitable[None] | None"]


class Held(Protocol):
    """Something outside of the transaction that it holds until its end, such as a lock."""

    async def confirm(self, connection: Connection | None) -> None:
        """Raise when the transaction must not commit, because it is not held any more."""
        ...

    async def let_go(self) -> None:
        """The transaction has ended, one way or the other. Raises nothing."""
        ...


class Frame(Turns, ABC):
    """One level: the handler, or an action called inside it. `busy` while a statement or an inner frame has the turn.

    A root has no object beside its frame, and no reference to itself: one is made for each job that runs.
    """

    __slots__ = ("_ended", "after_commit")

    depth = 0

    def __init__(self) -> None:
        self.busy, self._waiting = False, None
        self.after_commit: list[AfterCommit] = []
        self._ended = False

    @property
    @abstractmethod
    def unit(self) -> Root:
        """The transaction of which this is a level."""

    def lineage(self) -> list[Frame]:
        """From the root to this frame."""
        return [self]

    async def save(self, connection: Transactional) -> None:
        """Set the savepoint of every inner frame down to this one that has none."""

    def on_commit(self, callback: AfterCommit) -> None:
        """Call back when the root has committed, if this frame and all around it ended well."""
        self.unit.check_on_commit()
        self.after_commit.append(callback)
        self.unit.followed(self)

    def statement(self) -> AbstractAsyncContextManager[Transactional]:
        """Take this frame's turn and run a statement on the unit's connection."""
        return _Statement(self)

    @asynccontextmanager
    async def nested(self) -> AsyncGenerator[Frame]:
        """An inner frame: left normally its work joins this one's, left by an error it is taken back."""
        await self.take_turn()
        try:
            inner = _Inner(self)
            token = _innermost.set(inner)
            try:
                yield inner
                # inside the try: joining fails when a database error was caught in there, and then it is taken back
                await inner.join()
            except BaseException:
                await inner.take_back()
                raise
            finally:
                inner.end()
                _innermost.reset(token)
        finally:
            self._pass_turn()

    async def take_turn(self) -> None:
        """Until nothing else runs in this frame; to be ended with `pass_turn`.

        Raises:
            UsageError: it has ended, or waits for the very caller.
        """
        if self._ended:
            raise UsageError(
                f"{self.unit.title}: the ctx of an action called from it, or of a savepoint, has ended; nothing can be "
                "done with it any more."
            )
        inner = _innermost.get()
        if inner is not None and inner is not self and inner.unit is self.unit and self in inner.lineage():
            raise UsageError(
                f"{self.unit.title}: an action called from it used the caller's ctx, which waits for that action. Use "
                "the ctx that the action was given."
            )
        if self.busy:
            await self._wait_turn()
        self.busy = True

    def pass_turn(self) -> None:
        """Let the next one in."""
        self._pass_turn()


class Root(Frame):
    """The outermost frame, which is the transaction: a `Unit`, or one that belongs to the caller (`bind_unit`)."""

    __slots__ = ("_holdings",)

    def __init__(self) -> None:
        super().__init__()
        self._holdings: dict[tuple[str, str], Held] | None = None

    @property
    def unit(self) -> Root:
        return self

    @property
    def root(self) -> Frame:
        """The outermost frame."""
        return self

    @property
    def holdings(self) -> dict[tuple[str, str], Held]:
        """What is held until this transaction ends, by what it is called."""
        if self._holdings is None:
            self._holdings = {}
        return self._holdings

    @property
    @abstractmethod
    def title(self) -> str: ...

    @property
    @abstractmethod
    def transactional(self) -> bool:
        """Whether all of it is one transaction."""

    @property
    @abstractmethod
    def opened(self) -> bool:
        """Whether a transaction is open."""

    def can_carry(self, frame: Frame, payloads: Sequence[str]) -> bool:
        """Whether jobs like these, enqueued in a frame, can be left to the end of the job that this is the handler of.

        The answer holds until something is awaited.
        """
        return False

    def carry(self, jobs: Sequence[CarriedJob], after_commit: Callable[[], None]) -> None:
        """Leave these jobs to that end. Only where `can_carry` says so."""
        raise AssertionError("nothing here is the handler of a job")

    @abstractmethod
    async def enter(self, frame: Frame) -> Transactional:
        """The connection to run a frame's statement on, inside the transaction and every savepoint it needs."""

    @abstractmethod
    async def leave(self, connection: Transactional, *, failed: bool) -> None:
        """The end of what `enter` began."""

    @abstractmethod
    async def rollback(self) -> None: ...

    @abstractmethod
    async def after_statement(self, frame: Frame) -> None: ...

    @abstractmethod
    def followed(self, frame: Frame) -> None:
        """Something more is to follow the commit of this frame."""

    @abstractmethod
    def check_on_commit(self) -> None:
        """Raise `UsageError` when nobody can tell that this transaction has committed."""


class _Inner(Frame):
    """A savepoint, once something in it touches the database."""

    __slots__ = ("_parent", "_saved", "_unit", "depth")

    def __init__(self, parent: Frame) -> None:
        super().__init__()
        self._parent, self.depth, self._unit = parent, parent.depth + 1, parent.unit
        self._saved = False

    @property
    def unit(self) -> Root:
        return self._unit

    @property
    def savepoint(self) -> str:
        return f"chimpbase_{self.depth}"

    def lineage(self) -> list[Frame]:
        return [*self._parent.lineage(), self]

    async def save(self, connection: Transactional) -> None:
        await self._parent.save(connection)
        if not self._saved:
            await connection.savepoint(self.savepoint)
            self._saved = True

    async def join(self) -> None:
        if self._saved:
            connection = await self._unit.enter(self)
            await connection.release(self.savepoint)
            await self._unit.leave(connection, failed=False)
        self._parent.after_commit += self.after_commit
        self._unit.followed(self._parent)

    async def take_back(self) -> None:
        if not self._saved or not self._unit.opened:
            return
        try:
            connection = await self._unit.enter(self)
            await connection.rollback_to(self.savepoint)
            await connection.release(self.savepoint)
            await self._unit.leave(connection, failed=False)
        except (DatabaseError, UsageError):
            # the transaction is lost with its connection: the error on its way out is the one to see
            await self._unit.rollback()

    def end(self) -> None:
        self._ended = True


class _Statement(AbstractAsyncContextManager[Transactional]):
    """A frame's turn and its connection, for the length of a block. One is made for each statement."""

    __slots__ = ("_connection", "_frame")

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._connection: Transactional | None = None

    async def __aenter__(self) -> Transactional:
        frame = self._frame
        await frame.take_turn()
        try:
            self._connection = connection = await frame.unit.enter(frame)
        except BaseException:
            frame.pass_turn()
            raise
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        frame, connection = self._frame, self._connection
        assert connection is not None
        try:
            await frame.unit.leave(connection, failed=error is not None)
        finally:
            frame.pass_turn()
        if error is None:
            await frame.unit.after_statement(frame)
