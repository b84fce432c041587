"""Statements: SQL kept in `.sql` files, each statement under a name, with parameters by name.

A file is a row of blocks: a line `-- name: claim`, comment lines, one SQL statement. Parameters are written `:queue`,
so that a block can be pasted into psql; they become `$1`, `$2` ... by order of first appearance.

Invariant: whatever a loaded statement sends is its text in the file, led by a `/* shelf.name */` comment that shows in
pg_stat_activity and in every error. Deliberately absent: templating. A variant is a statement of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from operator import itemgetter
from typing import Any, Final, TypeVar, cast

from chimpbase._core.errors import UsageError
from chimpbase._pg import lexer

T = TypeVar("T")
_NAME_LINE: Final = re.compile(r"^--[ \t]*name:[ \t]*(?P<name>.*?)[ \t]*$", re.MULTILINE)

_NUMBER: Final = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `sql` has `$n` where `parameters[n - 1]` goes."""

    name: str
    sql: str
    parameters: tuple[str, ...]
    _pick: Callable[[Mapping[str, object]], tuple[object, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pick", _picker(self.parameters))

    def bind(self, **values: object) -> tuple[Any, ...]:
        """`(sql, *arguments)`, to be spread into `fetch` and its sisters.

        Raises:
            TypeError: a parameter is missing, or a value has no parameter; the message names it.
        """
        try:
            arguments = self._pick(values)
        except KeyError:
            raise self._misfit(values) from None
        if len(values) != len(arguments):
            raise self._misfit(values)
        return (self.sql, *arguments)

    def spelled(self, **values: int) -> str:
        """The statement with whole numbers where its parameters are, for a message that holds several statements.

        Raises:
            TypeError: as `bind`; or a value is something else, for nothing else may become text.
        """
        sql, *arguments = self.bind(**values)
        if any(type(argument) is not int for argument in arguments):
            raise TypeError(f"Statement {self.name!r} is spelled out with whole numbers alone, not {arguments!r:.60}.")
        return _NUMBER.sub(lambda place: str(arguments[int(place[1]) - 1]), sql)

    def _misfit(self, values: Mapping[str, object]) -> TypeError:
        missing = [name for name in self.parameters if name not in values]
        unknown = [name for name in values if name not in self.parameters]
        faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"does not know {', '.join(unknown)}"] * bool(
            unknown
        )
        return TypeError(
            f"Statement {self.name!r} {' and '.join(faults)}; parameters: {', '.join(self.parameters) or 'none'}."
        )


class Statements:
    """The statements of one file, by attribute (`sql.claim`) or by name (`sql["claim"]`); iterating gives the names.

    Not a `Mapping`, because a shelf is free to call a statement `get`, `items` or `keys`.
    """

    def __init__(self, origin: str, statements: Mapping[str, Statement]) -> None:
        self._origin = origin
        self._statements = dict(statements)

    def __getattr__(self, name: str) -> Statement:
        try:
            return self._statements[name]
        except KeyError:
            raise AttributeError(f"{self._origin} has no statement {name!r}; it has: {', '.join(self)}.") from None

    def __getitem__(self, name: str) -> Statement:
        return self._statements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)

    def __contains__(self, name: object) -> bool:
        return name in self._statements


def load(package: str, filename: str) -> Statements:
    """Read and parse `filename` of `package`. Do it once, at import.

    Raises:
        UsageError: a block has no or a repeated name, no statement or more than one, or numbered parameters.
    """
    return parse(files(package).joinpath(filename).read_text(encoding="utf-8"), origin=filename)


def parse(text: str, *, origin: str) -> Statements:
    """Parse the text of a file; `origin` is its name, whose stem leads the comment in front of each statement."""
    shelf = origin.removesuffix(".sql")
    heads = list(_NAME_LINE.finditer(text))
    if not heads:
        raise UsageError(f"{origin} holds no statement: no line reads `-- name: something`.")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found: dict[str, Statement] = {}
    for head, end in zip(heads, ends, strict=True):
        name = head["name"]
        if not name.isidentifier() or name.startswith("_"):
            raise UsageError(
                f"{origin} names a statement {name!r}; a name is a Python identifier without `_` in front."
            )
        if name in found:
            raise UsageError(f"{origin} has two statements named {name!r}. Rename one.")
        found[name] = _statement(shelf, name, text[head.end() : end])
    return Statements(origin, found)


def sparse(column: list[T]) -> list[T]:
    """A column to be sent as an array, or an empty one when nothing is in it: for `unnest` that is as good as nulls."""
    return column if any(column) else []


def _statement(shelf: str, name: str, block: str) -> Statement:
    found = list(lexer.tokens(block))
    code = [token for token in found if not token["end"]]
    if not code:
        raise UsageError(f"Statement {shelf}.{name} is empty.")
    ends = [token.start() for token in found if token["end"]]
    if ends and ends[0] < code[-1].start():
        raise UsageError(f"Block {shelf}.{name} holds more than one statement. Give each a `-- name:` line of its own.")
    parameters: dict[str, str] = {}
    pieces: list[str] = []
    place = code[0].start()
    for token in code:
        if token["number"]:
            raise UsageError(f"Statement {shelf}.{name} uses `{token[0]}`. Write parameters by name, as in `:queue`.")
        if parameter := token["parameter"]:
            number = parameters.setdefault(parameter, f"${len(parameters) + 1}")
            pieces += (block[place : token.start()], number)
            place = token.end()
    pieces.append(block[place : ends[0] if ends else len(block)].rstrip())
    return Statement(name, f"/* {shelf}.{name} */ {''.join(pieces)}", tuple(parameters))


def _picker(parameters: tuple[str, ...]) -> Callable[[Mapping[str, object]], tuple[object, ...]]:
    """`itemgetter` answers a bare value for one name and refuses none, so those two get a form of their own."""
    if not parameters:
        return lambda values: ()
    if len(parameters) == 1:
        (only,) = parameters
        return lambda values: (values[only],)
    return cast("Callable[[Mapping[str, object]], tuple[object, ...]]", itemgetter(*parameters))
