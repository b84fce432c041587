"""Topics and filters: which events a subscription is owed, as data that PostgreSQL judges at publish.

A topic is words between dots. In a pattern `*` stands for one word and `#`, as the last one, for any number of them. A
filter names fields of the payload and what must hold of them. Absent on purpose: anything that would be SQL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from chimpbase._core.errors import UsageError
from chimpbase._core.names import check_name

OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "exists")
_MOST_CONDITIONS = 32


def is_pattern(topic: str) -> bool:
    """Whether it stands for more than one topic."""
    return "*" in topic or "#" in topic


def check_pattern(topic: str) -> str:
    """Return `topic` if it can be a pattern: `order.*`, `order.#`, `*.placed`, `#`.

    Raises: UsageError.
    """
    if not isinstance(cast(object, topic), str):
        check_name("event", topic)
    words = topic.split(".")
    if any(word != "*" and is_pattern(word) for word in words[:-1]) or (
        is_pattern(words[-1]) and words[-1] not in {"*", "#"}
    ):
        raise UsageError(f"{topic!a} is no pattern: `*` stands for a whole word between dots, `#` only at the end.")
    check_name("event", topic.replace("*", "x").replace("#", "x"))
    return topic


def regular_expression(topic: str) -> str:
    """The pattern as a regular expression that PostgreSQL and Python read alike."""
    words = topic.split(".")
    parts = [r"[^.]+" if word == "*" else word.replace("-", r"\-") for word in words]
    if words[-1] != "#":
        return "^" + r"\.".join(parts) + "$"
    if len(words) == 1:
        return "^.*$"
    return "^" + r"\.".join(parts[:-1]) + r"(\.[^.]+)*$"


def matches(topic: str, pattern: str) -> bool:
    """Whether a subscription to that pattern, or topic, is owed events of this topic."""
    return re.search(regular_expression(pattern), topic) is not None if is_pattern(pattern) else topic == pattern


def conditions(where: object) -> list[dict[str, Any]]:
    """What a filter asks, one condition each: path, operator, value. `{"state": "paid"}` is `{"state": {"eq": ...}}`.

    Raises: UsageError.
    """
    if not isinstance(where, Mapping):
        raise UsageError(f"where must be a dict of fields and what must hold of them, not {where!r:.60}.")
    found: list[dict[str, Any]] = []
    for field, asked in cast("Mapping[object, object]", where).items():
        if not isinstance(field, str) or not all(field.split(".")) or "\0" in field:
            raise UsageError(f"where names a field {field!a:.60}; use names with dots between, such as 'customer.id'.")
        rules = cast("Mapping[object, Any]", asked) if isinstance(asked, Mapping) else {"eq": asked}
        if not rules:
            raise UsageError(f"where asks nothing of {field!r}. Leave it out, or use {{'exists': True}}.")
        for operator, value in rules.items():
            _check(field, operator, value)
            found.append({"path": field.split("."), "op": operator, "value": value})
    if len(found) > _MOST_CONDITIONS:
        raise UsageError(f"where has {len(found)} conditions; the limit is {_MOST_CONDITIONS}.")
    return found


def _check(field: str, operator: object, value: Any) -> None:
    if operator not in OPERATORS:
        raise UsageError(f"where asks {operator!r:.40} of {field!r}; the operators are {', '.join(OPERATORS)}.")
    if operator == "exists" and not isinstance(value, bool):
        raise UsageError(f"where asks 'exists' of {field!r} with {value!r:.40}; it takes True or False.")
    if operator == "in" and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise UsageError(f"where asks 'in' of {field!r} with {value!r:.40}; it takes a list.")
    if operator in {"gt", "gte", "lt", "lte"} and (isinstance(value, bool) or not isinstance(value, int | float | str)):
        raise UsageError(f"where compares {field!r} with {value!r:.40}; it takes a number or a text.")
    try:
        text = json.dumps(value, allow_nan=False)
        text.encode()
        if "\\u0000" in text or re.search(r"\\ud[89a-f]", text):
            raise ValueError("it is no text that can be stored")
    except (TypeError, ValueError) as error:
        raise UsageError(f"where compares {field!r} with what JSON cannot hold: {error}.") from None


def holds(payload: Any, asked: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a payload, as JSON types, meets every condition: the same answer as `chimpbase.meets` gives."""
    return all(_holds(payload, one["path"], one["op"], one["value"]) for one in asked)


def _holds(payload: Any, path: Sequence[str], operator: str, value: Any) -> bool:
    there, found = True, payload
    for word in path:
        there = there and isinstance(found, dict) and word in found
        found = cast("dict[str, Any]", found)[word] if there else None
    match operator:
        case "exists":
            return there is value
        case "eq":
            return there and _same(found, value)
        case "ne":
            return not (there and _same(found, value))
        case "in":
            return there and any(_same(found, one) for one in value)
        case _:
            return there and _ordered(found, operator, value)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _ordered(found: Any, operator: str, value: Any) -> bool:
    if isinstance(found, str) and isinstance(value, str):
        found, value = found.encode(), value.encode()
    elif isinstance(found, bool) or not (isinstance(found, int | float) and isinstance(value, int | float)):
        return False
    return {"gt": found > value, "gte": found >= value, "lt": found < value, "lte": found <= value}[operator]
