"""Foreign: the verbs of our own `Connection` on a connection that somebody else owns.

A driver of another kind is spoken to through a `ForeignDriver`, one small file for each. Invariant: nothing here
begins, commits or rolls back a transaction; savepoints are set, and taken back, only inside one that is the caller's.
Deliberately absent: budgets and the statement hook, since the socket is not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import msgspec

from chimpbase._core.errors import ChimpbaseError
from chimpbase._pg import lexer
from chimpbase._pg.connection import savepoint_name
from chimpbase._pg.foreign_errors import understand

JSON_OIDS: Final = frozenset({114, 3802})  # json, jsonb
#: What a connection makes of JSON: text, or what its owner has it decode to.
PROBE: Final = """/* foreign.probe */ select '"1"'::json, '"1"'::jsonb"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the columns by name and type, the rows in their order, the status tag or the row count."""

    names: Sequence[str]
    oids: Sequence[int]
    rows: Sequence[Sequence[Any]]
    tag: str


class ForeignDriver(Protocol):
    """One kind of connection. Where `is_sync`, its coroutines never suspend.

    `on_commit` calls back once the caller has committed what is being done now, and never if it is rolled back; None
    when this kind of connection cannot tell.
    """

    is_sync: bool
    on_commit: Callable[[Callable[[], None]], None] | None

    def check(self) -> None:
        """Raise `UsageError` when a statement would be a transaction of its own."""
        ...

    async def run(self, sql: str, args: Sequence[object], /) -> Answer:
        """Run one statement with `$1` parameters. Errors are the driver's own."""
        ...


class Foreign:
    """Statements on the caller's connection, inside the caller's transaction."""

    def __init__(self, driver: ForeignDriver) -> None:
        self._driver = driver
        self.is_sync = driver.is_sync
        self.on_commit = driver.on_commit
        self._json_as_text: Mapping[int, bool] | None = None

    async def fetch(self, sql: str, *args: object) -> list[Any]:
        """All rows; json and jsonb are Python objects, whatever the caller's connection makes of them."""
        return await self._rows(await self._run(sql, args))

    async def fetch_one(self, sql: str, *args: object) -> Any:
        """The first row or None."""
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, *args: object) -> Any:
        """The first column of the first row; None when there is no row, too."""
        row = await self.fetch_one(sql, *args)
        return None if row is None else row[0]

    async def execute(self, sql: str, *args: object) -> str:
        """The status tag, such as `UPDATE 3`, or the bare count where the driver tells no more."""
        return (await self._run(sql, args)).tag

    async def savepoint(self, name: str) -> None:
        """As `Connection.savepoint`."""
        await self._run(f"savepoint {savepoint_name(name)}", ())

    async def release(self, name: str) -> None:
        """As `Connection.release`."""
        await self._run(f"release savepoint {savepoint_name(name)}", ())

    async def rollback_to(self, name: str) -> None:
        """As `Connection.rollback_to`."""
        await self._run(f"rollback to savepoint {savepoint_name(name)}", ())

    async def _run(self, sql: str, args: Sequence[object]) -> Answer:
        try:
            self._driver.check()
            return await self._driver.run(sql, args)
        except ChimpbaseError:
            raise
        except Exception as error:
            failure, cause = understand(error, statement=lexer.label(sql), given=args)
            raise failure from cause

    async def _rows(self, answer: Answer) -> list[Row]:
        columns = {name: place for place, name in enumerate(answer.names)}
        json = [place for place, oid in enumerate(answer.oids) if oid in JSON_OIDS]
        if json and answer.rows:
            if self._json_as_text is None:
                self._json_as_text = await self._probe()
            json = [place for place in json if self._json_as_text[answer.oids[place]]]
            if json:
                return [Row(columns, _decoded(values, json)) for values in answer.rows]
        return [Row(columns, values) for values in answer.rows]

    async def _probe(self) -> dict[int, bool]:
        """Which of the two types the caller's connection leaves as text: that depends on its driver and settings."""
        answer = await self._run(PROBE, ())
        return dict(zip(answer.oids, map(is_text, answer.rows[0]), strict=True))


class Row(Sequence[Any]):
    """Values by place and by name; `dict(row)` works. Equal names: the last one counts, as in our own rows."""

    __slots__ = ("_columns", "_values")

    def __init__(self, columns: Mapping[str, int], values: Sequence[Any]) -> None:
        self._columns, self._values = columns, values

    def __getitem__(self, key: Any) -> Any:
        return self._values[self._columns[key] if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> KeysView[str]:
        """The names of the columns."""
        return self._columns.keys()


def is_text(probed: object) -> bool:
    """Whether an answer to `PROBE` is JSON text."""
    return probed in {'"1"', b'"1"'}


def answer_of(cursor: Any, rows: Iterable[Sequence[Any]]) -> Answer:
    """The answer of a PEP 249 cursor whose rows were fetched."""
    description = cast("Sequence[tuple[Any, ...]]", cursor.description or ())
    tag = getattr(cursor, "statusmessage", None)
    return Answer(
        names=[column[0] for column in description],
        oids=[column[1] for column in description],
        rows=list(rows),
        tag=tag if isinstance(tag, str) else str(max(cursor.rowcount, 0)),
    )


def _decoded(values: Sequence[Any], json: Sequence[int]) -> list[Any]:
    decoded = list(values)
    for place in json:
        if isinstance(decoded[place], str | bytes):
            decoded[place] = msgspec.json.decode(decoded[place])
    return decoded
