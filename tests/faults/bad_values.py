"""Bad values: what a stranger may put into any argument, and values that fit, by the name of the argument."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from chimpbase import Limits, Update

#: Each of these has broken something somewhere.
STRINGS: tuple[str, ...] = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "x" * 100_000,
    "'; drop table canary; --",
    '"; drop table canary; --',
    "$$; drop table canary; $$",
    "$1",
    "%s%n",
    ":queue",
    "{0.__class__}",
    "../../etc/passwd",
    "a\r\nb",
    "\x1b[31m",
    "\u202e",
    "<script>alert(1)</script>",
    "ünïcödé",
    "NaN",
    "infinity",
)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    -0.5,
    b"bytes",
    [],
    {},
    (),
    {1, 2},
    object(),
    print,
    timedelta(days=999_999_999),
    timedelta(seconds=-1),
    complex(1, 1),
    ["\0"],
    {"\ud800": 1},
    {"a": float("nan")},
)

#: A value that fits, for every argument that some verb has. A new argument needs a line here.
FITTING: dict[str, Any] = {
    "queue": "note",
    "payload": "x",
    "payloads": ["x"],
    "event": "happened",
    "workflow": "journey",
    "input": "x",
    "id": "run",
    "signal": "go",
    "key": "k",
    "keys": ["k"],
    "name": "yearly",
    "value": 1,
    "values": {"k": 1},
    "job": 1,
    "cadence": "0 0 1 1 *",
    "to": "note",
    "ttl": 5.0,
    "limit": 3,
    "wait": 0.0,
    "run": "run",
    "token": "run:token",
    "at": "written#1",
    "update": Update("fix", str, str),
    "limits": Limits(concurrency=3),
    "on_done": ("note", "x"),
    "subscription": "heard",
    "strike": 1,
    "stream": "log",
    "consumer": "keeper",
    "sql": "select 1",
    "collection": "papers",
    "namespace": "space",
    "where": {},
    "changes": {"set": {"a": 1}},
}
#: Arguments that hold a function or a token, of which a wrong type is the only bad value.
SLOW = {"timeout"}


def verbs(client: type[Any]) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Every public verb of a client: its name, itself, and its parameters by name (`Unpack` unpacked)."""
    for name, function in inspect.getmembers(client, inspect.isfunction):
        if not name.startswith("_") or name == "__call__":
            yield name, function, parameters(function)


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter | None]:
    """By name; the parameter, or None for one that came out of `**options`."""
    found: dict[str, inspect.Parameter | None] = {}
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            # the one annotation alone: others may name what is imported for the type checker only
            hint = eval(str(parameter.annotation), {**vars(typing), **inspect.unwrap(function).__globals__})
            for options in typing.get_args(hint):  # none where any name will do
                found |= dict.fromkeys(options.__annotations__)
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            found[name] = parameter
    return found


def fitting(
    found: dict[str, inspect.Parameter | None], elsewhere: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """A value for every parameter that needs one; `elsewhere` is asked first.

    Raises:
        KeyError: nobody has said yet what fits this parameter.
    """
    return {
        name: elsewhere[name] if name in elsewhere else FITTING[name]
        for name, parameter in found.items()
        if parameter is not None and parameter.default is inspect.Parameter.empty
    }
