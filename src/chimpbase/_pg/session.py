"""Session: one connection to the server from its opening to its end, and the one path of every statement.

Invariant: a statement ends within its budget, whatever the network does, and a statement that was cancelled or lost
takes its connection with it, so no half-read answer is ever met by the next one. Statements of several tasks on one
session take turns. Deliberately absent: who may use it when (`pool`), and the verbs of a transaction (`connection`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar, cast

import asyncpg

from chimpbase._core.errors import DatabaseError, OutcomeUnknown, StatementTimeout
from chimpbase._pg import lexer
from chimpbase._pg.connector import Driver, Record
from chimpbase._pg.faults import StatementHook
from chimpbase._pg.translate import lost, severity, translate, was_not_sent
from chimpbase._pg.turns import Turns
from chimpbase._pg.watchdog import Watchdog

T = TypeVar("T")

#: What `reset all` leaves: who one is, and temporary tables.
_UNDO = "reset session authorization; reset role; discard temp"


class Session(Turns):
    """`failure` is the error that made the open transaction unusable, `dirty` tells that settings were changed, and
    `unsent` that the last statement found the connection ended and certainly did nothing.
    """

    __slots__ = (
        *("_foreign", "_hook", "_in_transaction", "_loop", "_on_failure", "_watchdog"),
        *("born", "budget_s", "clock_shift", "dirty", "driver", "failure", "fresh", "generation", "unsent"),
    )

    def __init__(
        self,
        driver: Driver,
        *,
        budget_s: float,
        hook: StatementHook | None = None,
        on_failure: Callable[[Session, BaseException], None] | None = None,
        generation: int = 0,
    ) -> None:
        """`on_failure` hears of each failed statement, after the session knows whether it survived."""
        super().__init__()
        self.driver = driver
        self.budget_s = budget_s
        self.born = monotonic()
        self.generation = generation
        self.fresh = True
        self.unsent = False
        self.dirty = False
        self.failure: DatabaseError | None = None
        self.clock_shift = timedelta(0)
        self._hook = hook
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(self._loop, self.terminate)
        self._foreign: BaseException | None = None
        # The driver's public question is refused once the connection is gone, which is when the answer matters most.
        self._in_transaction: Callable[[], bool] = cast("Any", driver)._protocol.is_in_transaction  # noqa: SLF001

    @property
    def in_transaction(self) -> bool:
        """What the server said with its last answer, also after the connection is gone."""
        return self._in_transaction()

    @property
    def is_closed(self) -> bool:
        return self.driver.is_closed()

    @property
    def timed_out(self) -> bool:
        """Whether a statement outlived its budget, which ended this session."""
        return self._watchdog.fired

    def is_clean(self) -> bool:
        """Whether the next user may have it as it is."""
        return not (self.busy or self.dirty or self._in_transaction() or self.driver.is_closed())

    def terminate(self) -> None:
        """Close the socket now. A statement that waits for its answer fails."""
        self._watchdog.close()
        self.driver.terminate()

    def fetch(self, sql: str, args: tuple[object, ...]) -> Coroutine[Any, Any, list[Record]]:
        return self.run(self.driver.fetch, sql, args)

    def fetch_one(self, sql: str, args: tuple[object, ...]) -> Coroutine[Any, Any, Record | None]:
        return self.run(self.driver.fetchrow, sql, args)

    def fetch_value(self, sql: str, args: tuple[object, ...]) -> Coroutine[Any, Any, Any]:
        return self.run(self.driver.fetchval, sql, args)

    def execute(self, sql: str, args: tuple[object, ...]) -> Coroutine[Any, Any, str]:
        return self.run(self.driver.execute, sql, args)

    async def reset(self) -> None:
        """Back to how it was connected; costs two round trips."""

        async def reset(_: str) -> None:
            await self.driver.reset()
            await self.driver.execute(_UNDO)

        await self.run(reset, "reset all", ())
        self.dirty = False
        self.clock_shift = timedelta(0)

    async def run(self, call: Callable[..., Awaitable[T]], sql: str, args: tuple[object, ...]) -> T:
        """Await `call(sql, *args)` within the budget. `sql` need not be what is sent, but it is what is reported."""
        if self.busy:
            await self._wait_turn()
        self.busy = True
        self._watchdog.start(self.budget_s)
        try:
            if self._hook is None:
                answer = await call(sql, *args)
            else:
                answer = await self._run_hooked(self._hook, call, sql, args)
        except BaseException as error:
            failure = self._failed(error, sql, args)
            if failure is error:
                raise
            raise failure from error
        else:
            self.failure = None
            self.fresh = False
            return answer
        finally:
            self._watchdog.stop()
            self._pass_turn()

    async def run_to_the_end(self, sql: str) -> str:
        """Run a statement that a cancelled caller must not leave in doubt; the cancellation is delivered after it."""
        task = self._loop.create_task(self.run(self.driver.execute, sql, ()))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception:  # `result` raises it below
                break
        if cancelled is not None:
            raise cancelled from (None if task.cancelled() else task.exception())
        return task.result()

    async def _run_hooked(
        self, hook: StatementHook, call: Callable[..., Awaitable[T]], sql: str, args: tuple[object, ...]
    ) -> T:
        await self._call_hook(hook.before, sql, args)
        try:
            answer = await call(sql, *args)
        except Exception as error:
            await self._call_hook(hook.after, sql, error)
            raise
        await self._call_hook(hook.after, sql, None)
        return answer

    async def _call_hook(self, point: Callable[[str, Any], Awaitable[None] | None], sql: str, detail: object) -> None:
        try:
            waiting = point(sql, detail)
            if waiting is not None:
                await waiting
        except OSError:
            self.terminate()
            raise
        except Exception as error:
            self._foreign = error
            raise

    def _failed(self, error: BaseException, sql: str, args: tuple[object, ...]) -> BaseException:
        """What to raise for `error`; settles what became of the connection and of its transaction."""
        if not isinstance(error, Exception):
            self.terminate()
            return error
        if error is self._foreign:
            return error
        statement = f"Statement {lexer.label(sql)}"
        if self._watchdog.fired:
            failure = self._timed_out(statement, sql)
        elif isinstance(error, OSError) or (isinstance(error, asyncpg.PostgresConnectionError) and not severity(error)):
            self.terminate()
            failure = self._in_doubt(statement, sql, "lost its connection") or lost(error, statement=statement)
        elif was_not_sent(error):
            self.unsent = True
            self.terminate()
            failure = translate(error, statement=statement)
        else:
            # the driver's error says less from here on; whoever needs its own words has asked before
            failure = translate(error, statement=statement, given=args)
            # A value that the driver refused never reached the server and leaves the transaction as it was.
            if severity(error) and self._in_transaction() and isinstance(failure, DatabaseError):
                self.failure = failure
        if self._on_failure is not None:
            self._on_failure(self, error)
        return failure

    def _timed_out(self, statement: str, sql: str) -> DatabaseError:
        budget = f"outlived its budget of {self.budget_s:g} s"
        return self._in_doubt(statement, sql, budget) or StatementTimeout(
            f"{statement} {budget}; its connection was closed and its transaction is gone. Give it more with "
            "`connection.budget(...)`, or look for a lock it waits for."
        )

    def _in_doubt(self, statement: str, sql: str, reason: str) -> OutcomeUnknown | None:
        """Outside a transaction each statement is its own commit; one that can only have read is merely lost."""
        doubtful = lexer.may_commit(sql) if self._in_transaction() else not lexer.only_reads(sql)
        if not doubtful:
            return None
        return OutcomeUnknown(
            f"{statement} {reason}, and was sent before: it is committed or not, and nobody can tell from here. Repeat "
            "it only with something that makes it idempotent, such as a unique key."
        )
