"""What a workflow's code is: a hash of it, the steps it knows, and what in it does not belong there.

Looked at once, when the app starts, and only by reading: the function, the functions of the same package that it calls,
and the names in them. It is not a proof; it is what a careful reader would see at a glance.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, cast

from chimpbase._app.definitions import Step, Workflow
from chimpbase._engine.divergence import mentions

_MOST_FUNCTIONS = 200

#: What answers otherwise each time, and what to use instead.
_IMPURE: Mapping[tuple[str, str], str] = {
    ("time", ""): "wf.now() or wf.sleep()",
    ("random", ""): "wf.random()",
    ("secrets", ""): "a step",
    ("uuid", "uuid1"): "wf.uuid()",
    ("uuid", "uuid4"): "wf.uuid()",
    ("datetime", "now"): "wf.now()",
    ("datetime", "utcnow"): "wf.now()",
    ("datetime", "today"): "wf.now()",
    ("date", "today"): "wf.now()",
    ("asyncio", "sleep"): "wf.sleep()",
    ("os", ""): "a step",
    ("socket", ""): "a step",
    ("subprocess", ""): "a step",
    ("requests", ""): "a step",
    ("httpx", ""): "a step",
    ("urllib", ""): "a step",
    ("open", ""): "a step",
    ("input", ""): "a step",
}


@dataclass(frozen=True, slots=True)
class WorkflowCode:
    """`hash` changes with the code; `names` are those of its steps, and every short text in it."""

    hash: str
    names: frozenset[str]
    warnings: tuple[str, ...]

    def knows(self, name: str) -> bool:
        """Whether the code mentions a step of that name."""
        return mentions(self.names, name)


def read_code(function: Callable[..., Any]) -> WorkflowCode:
    """Read a workflow's function and what it calls in its own package; one that was made of steps brings its own."""
    if isinstance(made := getattr(function, "__chimpbase_code__", None), WorkflowCode):
        return made
    digest, names, warnings = blake2b(digest_size=8), set[str](), list[str]()
    for one in _reachable(function):
        for code in _codes(one.__code__):
            digest.update(code.co_code)
            digest.update(repr([_stable(const) for const in code.co_consts]).encode("utf-8", "replace"))
            digest.update(repr(code.co_names).encode())
            names.update(const for const in code.co_consts if isinstance(const, str) and len(const) <= 128)
            warnings += _impurities(code, one.__globals__)
        names.update(filter(None, map(_named, _values(one))))
    return WorkflowCode(digest.hexdigest(), frozenset(names), tuple(dict.fromkeys(warnings)))


def _named(value: object) -> str | None:
    """How a journal names what is done with a value."""
    if isinstance(value, Step | Workflow):
        return value.name
    return f"undo:{value.__name__}" if isinstance(value, types.FunctionType) else None


def _reachable(function: Callable[..., Any]) -> list[types.FunctionType]:
    """The function and the plain functions of its own package that it calls, the nearest first."""
    found: dict[int, types.FunctionType] = {}
    waiting: list[object] = [function]
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    while waiting and len(found) < _MOST_FUNCTIONS:
        one = waiting.pop(0)
        own = isinstance(one, types.FunctionType) and (one.__module__ or "").partition(".")[0] == package
        if isinstance(one, types.FunctionType) and own and id(one) not in found:
            found[id(one)] = one
            waiting += _values(one)
    return list(found.values())


def _values(function: types.FunctionType) -> list[object]:
    """What the names in a function stand for, as far as that can be told without running it."""
    values: list[object] = []
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            values += [vars(value)[other] for other in sorted(names) if other in vars(value)]
        elif value is not None:
            values.append(value)
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    return values


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


def _stable(const: object) -> str:
    if isinstance(const, types.CodeType):
        return const.co_name
    if isinstance(const, frozenset):  # a set has another order in each process
        return repr(sorted(map(repr, cast("frozenset[object]", const))))
    return repr(const)


def _impurities(code: types.CodeType, names: Mapping[str, Any]) -> Iterator[str]:
    """`time.time` and its like: a global name, and the attributes taken of it."""
    root, chain = "", list[str]()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            root, chain = str(instruction.argval), []
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and root:
            chain.append(str(instruction.argval))
        elif instruction.opname not in ("PRECALL", "PUSH_NULL", "CACHE", "EXTENDED_ARG"):
            if root and (advice := _advice(names.get(root, root), root, chain)):
                yield f"{'.'.join((root, *chain))} (line {code.co_firstlineno}): use {advice}"
            root = ""


def _advice(value: Any, root: str, chain: list[str]) -> str | None:
    if isinstance(value, types.ModuleType):
        home = value.__name__.partition(".")[0]
        if not chain:
            return None
        return _IMPURE.get((home, "")) or _IMPURE.get((home, chain[-1])) or _nested(chain)
    if isinstance(value, type):
        return _IMPURE.get((value.__name__, chain[-1])) if chain else None
    if isinstance(value, str):
        return _IMPURE.get((root, "")) if root in ("open", "input") and not chain else None
    home, name = (getattr(value, "__module__", None) or "").partition(".")[0], getattr(value, "__name__", "")
    return None if chain else _IMPURE.get((home, name)) or _IMPURE.get((home, ""))


def _nested(chain: list[str]) -> str | None:
    return _IMPURE.get((chain[-2], chain[-1])) if len(chain) > 1 else None
