"""Contracts of workflows: what a version promises to the runs that are on their way, as JSON, and how two compare.

    identical            nothing changed
    additive             steps at the end, optional fields, wider enums, new signals
    requires_migration   steps before others: a run that is past the place has no memory of them
    breaking             removed, reordered or retyped steps, removed or newly required fields

Invariant: a contract depends on the definition alone, and on no order of writing but that of the steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from chimpbase._app.declarative import Act, Each, FlowStep, Wait, every_step, inner_lists
from chimpbase._app.declarative_workflow import DeclaredWorkflow
from chimpbase._app.definitions import Workflow
from chimpbase._core.contract_schemas import compare_schemas

Verdict = Literal["identical", "additive", "requires_migration", "breaking"]
Json = Mapping[str, Any]
_SEVERITY: tuple[Verdict, ...] = ("identical", "additive", "requires_migration", "breaking")


class Change(NamedTuple):
    """One difference, and what it is by itself."""

    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a contract differs from the one before; the reasons as sentences."""

    verdict: Verdict
    reasons: tuple[str, ...]


def contract_of(workflow: Workflow[Any, Any]) -> dict[str, Any]:
    """The contract of one version of a workflow."""
    steps = workflow.steps if isinstance(workflow, DeclaredWorkflow) else ()
    contract: dict[str, Any] = {
        "name": workflow.name,
        "version": workflow.version,
        "mode": "steps" if isinstance(workflow, DeclaredWorkflow) else "run",
        "steps": [_step(one) for one in steps],
        "input": workflow.input_codec.schema(),
        "result": workflow.return_codec.schema(),
        "signals": {one.signal.name: one.signal.codec.schema() for one in every_step(steps) if isinstance(one, Wait)},
    }
    return {**contract, "hash": hash_of(contract)}


def hash_of(contract: Json) -> str:
    """16 hexadecimal digits of what a contract says, whatever its version is called."""
    said = {key: value for key, value in contract.items() if key not in ("version", "hash")}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def compare(before: Json, after: Json) -> Comparison:
    """How `after` differs from `before`."""
    if hash_of(before) == hash_of(after):
        return Comparison(verdict="identical", reasons=())
    found: list[Change] = []
    if before["mode"] != after["mode"]:
        found.append(Change("breaking", f"it was a workflow of {before['mode']!r} and is one of {after['mode']!r}"))
    found += _compare_steps(before["steps"], after["steps"], where="", at_end=True)
    found += [Change(_verdict(kind), why) for kind, why in compare_schemas(before["input"], after["input"], "input")]
    found += [Change(_verdict(kind), why) for kind, why in compare_schemas(before["result"], after["result"], "result")]
    found += _compare_signals(before["signals"], after["signals"])
    worst = _SEVERITY[max((_SEVERITY.index(verdict) for verdict, _ in found), default=1)]
    return Comparison(verdict=worst, reasons=tuple(f"{verdict}: {why}" for verdict, why in found))


def _step(step: FlowStep) -> dict[str, Any]:
    said: dict[str, Any] = {"id": step.id, "kind": type(step).__name__.lower()}
    match step:
        case Act():
            said["step"] = step.target
        case Wait():
            said["signal"] = step.signal.name
        case Each():
            said["collects"] = "results" if step.takes_result else "items"
        case _:
            pass
    inner = {place: [_step(one) for one in steps] for place, steps in inner_lists(step)}
    return {**said, "inner": inner} if inner else said


def _compare_steps(before: Sequence[Json], after: Sequence[Json], *, where: str, at_end: bool) -> list[Change]:
    ids = [step["id"] for step in after]
    old = {step["id"]: step for step in before}
    found: list[Change] = []
    found.extend(Change("breaking", f"step {one!r}{where} was removed") for one in old if one not in ids)
    kept = [one for one in ids if one in old]
    if kept != [one for one in old if one in ids]:
        found.append(Change("breaking", f"steps{where} were reordered: {', '.join(kept)}"))
    last = max((ids.index(one) for one in kept), default=-1)
    for place, step in enumerate(after):
        if step["id"] in old:
            found += _compare_step(old[step["id"]], step)
        elif place > last and at_end:
            found.append(Change("additive", f"step {step['id']!r} was appended"))
        else:
            found.append(Change("requires_migration", f"step {step['id']!r} was inserted{where}"))
    return found


def _compare_step(before: Json, after: Json) -> list[Change]:
    id = before["id"]
    changed = [key for key in ("kind", "step", "signal", "collects") if before.get(key) != after.get(key)]
    found: list[Change] = []
    found.extend(
        Change("breaking", f"{key} of step {id!r} was {before.get(key)!r} and is {after.get(key)!r}") for key in changed
    )
    old, new = (cast("Mapping[str, Sequence[Json]]", one.get("inner", {})) for one in (before, after))
    for place in dict.fromkeys([*old, *new]):
        where = f" inside {id!r} ({place})"
        found += _compare_steps(old.get(place, ()), new.get(place, ()), where=where, at_end=False)
    return found


def _compare_signals(before: Json, after: Json) -> list[Change]:
    found: list[Change] = []
    found += [Change("additive", f"signal {name!r} is new") for name in after if name not in before]
    for name in before:
        if name not in after:
            found += [Change("breaking", f"signal {name!r} is no longer waited for")]
        else:
            schemas = compare_schemas(before[name], after[name], f"signal {name!r}")
            found.extend(Change(_verdict(kind), why) for kind, why in schemas)
    return found


def _verdict(kind: str) -> Verdict:
    return "additive" if kind == "additive" else "breaking"
