"""Documents: rows of `chimpbase.document`, and the one place where a statement is composed.

Each function runs the statement of the same name in `documents.sql`. Invariant of the composer: what it puts into a
statement are constants of this module and parameters `$n`. Names of fields, values, sort keys and cursors are
parameters, whoever wrote them; a path is an array of texts. Text that came from a caller is never SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from chimpbase._core.errors import DatabaseError, PayloadError
from chimpbase._core.filters import All, AnyOf, Node, Not, Path, Test
from chimpbase._core.names import ABOVE_ALL_KEYS, after_prefix
from chimpbase._pg.db import Queryable
from chimpbase._pg.statements import load

_SQL = load("chimpbase._store", "documents.sql")

#: The text search configurations that every PostgreSQL has, as they stand in a statement.
LANGUAGES: Final = {
    name: f"'{name}'::regconfig"
    for name in (
        *("simple", "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian"),
        *("indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "portuguese", "romanian"),
        *("russian", "spanish", "swedish", "tamil", "turkish"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A document's row; `body` is JSON text, `keys` what it was sorted by."""

    id: str
    version: int
    schema: int
    created_at: datetime
    updated_at: datetime
    body: str = ""
    keys: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SortKey:
    path: Path
    descending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A search for words (as people write them) in the declared fields of a collection."""

    text: str
    paths: Sequence[Path]
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which documents of a collection."""

    collection: str
    where: Node
    words: Words | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A page of a choice: by these keys and then by id, after a place (the keys and the id of a document)."""

    sort: Sequence[SortKey]
    after: Sequence[Any] | None
    max_documents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """What is to be stored; with `forced` the id becomes a member of the body even where it is none."""

    collection: str
    id: str
    body: str
    schema: int
    forced: bool


async def insert(connection: Queryable, documents: Sequence[NewDocument]) -> list[Stored]:
    """Store documents of one collection, all or none."""
    first = documents[0]
    rows = await connection.fetch(
        *_SQL.insert.bind(
            collection=first.collection,
            ids=[one.id for one in documents],
            bodies=[one.body for one in documents],
            schema=first.schema,
            forced=first.forced,
        )
    )
    return [Stored(**dict(row)) for row in rows]


async def add(connection: Queryable, document: NewDocument) -> Stored | None:
    """Store a document; None when its id, or what must be unique in it, is there already."""
    row = await connection.fetch_one(*_SQL.add.bind(**_fields(document)))
    return None if row is None else Stored(**dict(row))


async def put(connection: Queryable, document: NewDocument) -> Stored:
    """Store a document, over the one of its id if there is one."""
    row = await connection.fetch_one(*_SQL.put.bind(**_fields(document)))
    assert row is not None
    return Stored(**dict(row))


async def replace(connection: Queryable, document: NewDocument, *, version: int) -> Stored | None:
    """Store a document over the one of its id and that version; None when there is none."""
    row = await connection.fetch_one(*_SQL.replace.bind(**_fields(document), version=version))
    return None if row is None else Stored(**dict(row))


async def find(
    connection: Queryable, choice: Choice, *, order: Order, fields: Sequence[Path] | None = None
) -> list[Stored]:
    """A page of documents, whole or only some `fields` of them."""
    sql, *arguments = _SQL.find.bind(collection=choice.collection, max_documents=order.max_documents)
    composer = _Composer(arguments)
    where = composer.choice(choice)
    sql = sql.replace("/*order*/ id", composer.order(order.sort))
    if order.after is not None:
        where += f" and {composer.after(order.sort, order.after)}"
    keys = "".join(f", {part}" for part in composer.keys(order.sort))
    value = "body" if fields is None else f"chimpbase.pick(body, {composer.json(fields)})"
    sql = sql.replace("/*value*/ body", value).replace(" /*keys*/", keys)
    rows = await connection.fetch(sql.replace("/*where*/ true", where), *composer.arguments)
    return [_stored(tuple(row)) for row in rows]


async def count(connection: Queryable, choice: Choice) -> int:
    """How many documents."""
    sql, *arguments = _SQL.count.bind(collection=choice.collection)
    composer = _Composer(arguments)
    return await connection.fetch_value(sql.replace("/*where*/ true", composer.choice(choice)), *composer.arguments)


async def update(
    connection: Queryable, choice: Choice, *, changes: Sequence[tuple[str, Path, Any]], version: int | None
) -> int:
    """Change documents where they are; how many.

    Raises:
        PayloadError: a change does not fit a document: no number to add to, no list to push to.
    """
    text = msgspec.json.encode(changes).decode()
    sql, *arguments = _SQL.update.bind(collection=choice.collection, version=version, changes=text)
    composer = _Composer(arguments)
    try:
        tag = await connection.execute(sql.replace("/*where*/ true", composer.choice(choice)), *composer.arguments)
    except DatabaseError as error:
        if error.sqlstate == "CB020":
            raise PayloadError(f"does not fit a document: {error}", subject="change") from error
        raise
    return int(tag.split()[-1])


async def delete(connection: Queryable, choice: Choice, *, version: int | None) -> int:
    """Remove documents; how many."""
    sql, *arguments = _SQL.delete.bind(collection=choice.collection, version=version)
    composer = _Composer(arguments)
    tag = await connection.execute(sql.replace("/*where*/ true", composer.choice(choice)), *composer.arguments)
    return int(tag.split()[-1])


async def list_collections(connection: Queryable) -> list[str]:
    """The names of all collections that hold something."""
    return [row[0] for row in await connection.fetch(*_SQL.list_collections.bind())]


def _stored(row: tuple[Any, ...]) -> Stored:
    id, version, schema, created_at, updated_at, body, *keys = row
    return Stored(
        id=id,
        version=version,
        schema=schema,
        created_at=created_at,
        updated_at=updated_at,
        body=body,
        keys=tuple(keys),
    )


def _fields(document: NewDocument) -> dict[str, Any]:
    return {
        "collection": document.collection,
        "id": document.id,
        "body": document.body,
        "schema": document.schema,
        "forced": document.forced,
    }


@dataclass(frozen=True, slots=True)
class _Field:
    """The expressions for one field: its JSON (null when missing), and its place in the order of all values."""

    json: str
    rank: str
    number: str
    text: str

    @property
    def place(self) -> tuple[str, str, str]:
        return self.rank, self.number, self.text


#: A document's id is a column, and a text like any other to whoever asks.
_ID: Final = _Field("to_jsonb(id)", "3::smallint", "0::numeric", "id")
_COMPARE: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class _Composer:
    """Adds parameters to those a statement has, and spells conditions with them."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.arguments = list(arguments)
        self._fields: dict[Path, _Field] = {("id",): _ID}
        self._tests: dict[str, Callable[[_Field, Any], str]] = {
            "eq": self._equals,
            "in": self._is_one_of,
            "contains": self._contains,
            "prefix": self._begins,
            "exists": lambda field, value: f"({field.json}) is {'not ' if value else ''}null",
        }

    def choice(self, choice: Choice) -> str:
        """The whole condition."""
        words = "" if choice.words is None else f" and {self._search(choice.words)}"
        return f"{self.node(choice.where)}{words}"

    def node(self, node: Node) -> str:
        """The condition of a part of a filter: true or false, never null."""
        match node:
            case All(parts=parts):
                return f"({' and '.join(map(self.node, parts))})" if parts else "true"
            case AnyOf(parts=parts):
                return f"({' or '.join(map(self.node, parts))})" if parts else "false"
            case Not(part=part):
                return f"not {self.node(part)}"
            case Test(path=path, op=op, value=value):
                field = self._field(path)
                if sign := _COMPARE.get(op):
                    return self._compares(field, sign, value)
                return f"({self._tests[op](field, value)})"

    def order(self, sort: Sequence[SortKey]) -> str:
        """What follows `order by`; the last key's direction is the id's, so that an index can be read backwards."""
        parts = [f"{part}{_direction(key)}" for key in sort for part in self._field(key.path).place]
        return ", ".join([*parts, f"id{_direction(sort[-1]) if sort else ''}"])

    def keys(self, sort: Sequence[SortKey]) -> list[str]:
        """What is selected so that `after` can go on from a document."""
        fields = [self._field(key.path) for key in sort]
        return [part for field in fields for part in (field.rank, f"({field.number})::text", field.text)]

    def after(self, sort: Sequence[SortKey], place: Sequence[Any]) -> str:
        """The condition for what comes after a place."""
        columns = [part for key in sort for part in self._field(key.path).place]
        values = [
            self.parameter(value, kind)
            for value, kind in zip(place[:-1], ("smallint", "text::numeric", "text") * len(sort), strict=True)
        ]
        columns, values = [*columns, "id"], [*values, self.parameter(place[-1], "text")]
        down = [key.descending for key in sort for _ in range(3)]
        down.append(down[-1] if down else False)
        if len(set(down)) == 1:
            return f"({', '.join(columns)}) {'<' if down[0] else '>'} ({', '.join(values)})"
        parts: list[str] = []
        for last, (column, value) in enumerate(zip(columns, values, strict=True)):
            same = [f"{columns[n]} = {values[n]}" for n in range(last)]
            sign = "<" if down[last] else ">"
            parts.append(f"({' and '.join([*same, f'{column} {sign} {value}'])})")
        return f"({' or '.join(parts)})"

    def json(self, value: Any) -> str:
        """A JSON value as a parameter. As text, because drivers differ in what they make of jsonb."""
        return self.parameter(msgspec.json.encode(value).decode(), "text::jsonb")

    def parameter(self, value: object, kind: str) -> str:
        """A parameter of a type."""
        self.arguments.append(value)
        return f"${len(self.arguments)}::{kind}"

    def _field(self, path: Path) -> _Field:
        if path not in self._fields:
            json = f"body #> {self.parameter(list(path), 'text[]')}"
            self._fields[path] = _Field(
                json,
                f"chimpbase.rank_of({json})",
                f"chimpbase.number_of({json})",
                f'(chimpbase.text_of({json}) collate "C")',
            )
        return self._fields[path]

    def _equals(self, field: _Field, value: Any) -> str:
        match value:
            case None:
                return f"coalesce(jsonb_typeof({field.json}) = 'null', false)"
            case bool():
                return f"{field.rank} = 1 and {field.number} = {int(value)}"
            case int() | float():
                return f"{field.rank} = 2 and {field.number} = {self._number(value)}"
            case str():
                return f"{field.rank} = 3 and {field.number} = 0 and {field.text} = {self.parameter(value, 'text')}"
            case _:
                return f"coalesce({field.json} = {self.json(value)}, false)"

    def _compares(self, field: _Field, sign: str, value: float | str) -> str:
        if isinstance(value, str):
            text = self.parameter(value, "text")
            return f"({field.rank} = 3 and {field.number} = 0 and {field.text} {sign} {text})"
        return f"({field.rank} = 2 and {field.number} {sign} {self._number(value)})"

    def _is_one_of(self, field: _Field, values: list[Any]) -> str:
        texts = [value for value in values if isinstance(value, str)]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        rest: list[Any] = [value for value in values if value is None or isinstance(value, bool | list | dict)]
        parts = [f"({self._equals(field, value)})" for value in rest]
        if texts:
            listed = self.parameter(texts, "text[]")
            parts.append(f"({field.rank} = 3 and {field.number} = 0 and {field.text} = any ({listed}))")
        if numbers:
            listed = self.parameter([msgspec.json.encode(value).decode() for value in numbers], "text[]::numeric[]")
            parts.append(f"({field.rank} = 2 and {field.number} = any ({listed}))")
        # rank 0 is no value's: false, in words that use the parameter of the path
        return " or ".join(parts) if parts else f"{field.rank} = 0"

    def _contains(self, field: _Field, value: Any) -> str:
        elements = f"case jsonb_typeof({field.json}) when 'array' then {field.json} else '[]' end"
        held = f"exists (select from jsonb_array_elements({elements}) as element where element = {self.json(value)})"
        if not isinstance(value, str):
            return held
        return f"{held} or ({field.rank} = 3 and strpos({field.text}, {self.parameter(value, 'text')}) > 0)"

    def _begins(self, field: _Field, prefix: str) -> str:
        start = f"{field.rank} = 3 and {field.number} = 0 and {field.text} >= {self.parameter(prefix, 'text')}"
        stop = after_prefix(prefix)
        return start if stop == ABOVE_ALL_KEYS else f"{start} and {field.text} < {self.parameter(stop, 'text')}"

    def _number(self, value: float) -> str:
        return self.parameter(msgspec.json.encode(value).decode(), "text::numeric")

    def _search(self, words: Words) -> str:
        language = LANGUAGES[words.language]
        picked = f"chimpbase.pick(body, {self.json(words.paths)})"
        wanted = f"websearch_to_tsquery({language}, {self.parameter(words.text, 'text')})"
        return f"to_tsvector({language}, {picked}) @@ {wanted}"


def _direction(key: SortKey) -> str:
    return " desc" if key.descending else ""
