"""What became of a JSON Schema: whether every value that fitted it still fits, and which do not.

A pure comparison of two schemas as `Codec.schema` makes them. Absent on purpose: the parts of JSON Schema that no codec
writes. What it does not know and finds changed it calls breaking.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

Json = Mapping[str, Any]
_PROSE = {"title", "description", "default", "examples", "$defs"}
_STRUCTURE = {"$ref", "properties", "required", "items", "enum", "anyOf", "type"}


def compare_schemas(before: Json, after: Json, where: str) -> list[tuple[str, str]]:
    """The differences as (kind, sentence): kind is "additive" or "breaking". `where` names the schema."""
    return list(_compare(before, after, before.get("$defs", {}), after.get("$defs", {}), where, frozenset()))


def _compare(
    before: Json, after: Json, old: Json, new: Json, where: str, seen: frozenset[str]
) -> Iterator[tuple[str, str]]:
    pair = f"{before.get('$ref')}>{after.get('$ref')}"
    if pair in seen:  # a type that holds itself
        return
    seen = seen | {pair} if "$ref" in before and "$ref" in after else seen
    before, after = _resolved(before, old), _resolved(after, new)
    if not before and after:
        yield "breaking", f"{where} took anything and is now limited"
        return
    if not after:
        if before:
            yield "additive", f"{where} takes anything now"
        return
    if "anyOf" in before or "anyOf" in after:
        yield from _compare_unions(_arms(before), _arms(after), where)
        return
    yield from _compare_types(before, after, where)
    yield from _compare_objects(before, after, old, new, where, seen)
    if "items" in before and "items" in after and isinstance(before["items"], Mapping):
        was, now = (cast("Json", one["items"]) for one in (before, after))
        yield from _compare(was, now, old, new, f"items of {where}", seen)
    for key in sorted((before.keys() | after.keys()) - _PROSE - _STRUCTURE):
        if before.get(key) != after.get(key):
            yield "breaking", f"{key} of {where} was {before.get(key)!r} and is {after.get(key)!r}"


def _compare_types(before: Json, after: Json, where: str) -> Iterator[tuple[str, str]]:
    if "enum" in before or "enum" in after:
        was, now = (set(map(repr, one.get("enum", ()))) for one in (before, after))
        if was - now:
            yield "breaking", f"{where} no longer takes {', '.join(sorted(was - now))}"
        elif now - was:
            yield "additive", f"{where} also takes {', '.join(sorted(now - was))}"
    elif before.get("type") != after.get("type"):
        yield "breaking", f"{where} was {before.get('type')!r} and is {after.get('type')!r}"


def _compare_objects(
    before: Json, after: Json, old: Json, new: Json, where: str, seen: frozenset[str]
) -> Iterator[tuple[str, str]]:
    was, now = (cast("Mapping[str, Json]", one.get("properties", {})) for one in (before, after))
    needed, needs = (set(cast("list[str]", one.get("required", []))) for one in (before, after))
    for name in was:
        if name not in now:
            yield "breaking", f"field {name!r} of {where} was removed"
        else:
            yield from _compare(was[name], now[name], old, new, f"field {name!r} of {where}", seen)
    for name in now:
        if name not in was and name not in needs:
            yield "additive", f"field {name!r} of {where} is new and optional"
        elif name in needs - needed:
            yield "breaking", f"field {name!r} of {where} is required now"
        elif name in needed - needs:
            yield "additive", f"field {name!r} of {where} is optional now"


def _compare_unions(before: list[str], after: list[str], where: str) -> Iterator[tuple[str, str]]:
    gone, come = [one for one in before if one not in after], [one for one in after if one not in before]
    if gone:
        yield "breaking", f"{where} no longer takes {', '.join(gone)}"
    elif come:
        yield "additive", f"{where} also takes {', '.join(come)}"


def _arms(schema: Json) -> list[str]:
    arms = cast("list[Json]", schema.get("anyOf", [schema]))
    return [json.dumps({key: arm[key] for key in sorted(arm) if key not in _PROSE}, sort_keys=True) for arm in arms]


def _resolved(schema: Json, definitions: Json) -> Json:
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return cast("Json", definitions.get(reference.rpartition("/")[2], {}))
    return schema
