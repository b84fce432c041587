"""The database of `async with wf.tx(name)`: its answers are remembered, so that the block can be run again without it.

Python cannot leave out the body of a block. So the body runs in every activation, and in all but the one that committed
it, its statements are answered from the journal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from chimpbase._app.db_client import DbClient
from chimpbase._core.codec import codec_for
from chimpbase._core.errors import NondeterministicWorkflow


class TxDb:
    """As `ctx.db`. What its statements answer must be of JSON types, or of the type given as `as_`."""

    def __init__(
        self,
        name: str,
        db: DbClient | None,
        answers: list[Any],
        lose: Callable[[NondeterministicWorkflow], Awaitable[object]],
    ) -> None:
        self._name, self._db, self._answers, self._lose = name, db, answers, lose
        self._next = 0

    async def fetch_one(self, sql: str, *args: Any, as_: Any = None) -> Any:
        """The first row as a dict, or None; with `as_` as that type. See `ctx.db.fetch_one`."""
        return await self._ask("fetch_one", sql, args, as_, dict[str, Any] | None if as_ is None else as_)

    async def fetch(self, sql: str, *args: Any, as_: Any = None) -> Any:
        """All rows, as dicts or as `as_`. See `ctx.db.fetch`."""
        return await self._ask("fetch", sql, args, as_, list[dict[str, Any]] if as_ is None else list[as_])

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None. See `ctx.db.fetch_value`."""
        return await self._ask("fetch_value", sql, args, None, Any)

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; how many rows it touched. See `ctx.db.execute`."""
        return int(await self._ask("execute", sql, args, None, int))

    async def _ask(self, verb: str, sql: str, args: tuple[Any, ...], as_: Any, kind: Any) -> Any:
        codec, subject = codec_for(kind), f"an answer in wf.tx({self._name!r})"
        if self._db is None:
            if self._next == len(self._answers) or self._answers[self._next][0] != verb:
                message = (
                    f"wf.tx({self._name!r}) runs other statements than when it was committed. Give the changed block "
                    "another name."
                )
                await self._lose(NondeterministicWorkflow(message, found=f"{verb} {sql:.100}"))
            self._next += 1
            return codec.decode(msgspec.json.encode(self._answers[self._next - 1][1]), subject=subject)
        more = {} if as_ is None else {"as_": as_}
        answer = await getattr(self._db, verb)(sql, *args, **more)
        self._answers.append((verb, msgspec.Raw(codec.encode(answer, subject=subject).encode())))
        return answer
