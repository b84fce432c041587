"""Contracts of workflows: how versions compare, and the files that are kept of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from chimpbase import Ctx, Signal, Wf, workflow
from chimpbase._app.contract_files import check_contracts, write_contracts
from chimpbase._app.contracts import compare, contract_of, hash_of
from chimpbase._core.errors import UsageError
from chimpbase.steps import FlowStep, act, branch, each, wait
from chimpbase.steps import sleep as rest


async def do(ctx: Ctx, n: int) -> int:
    return n


async def other(ctx: Ctx, n: int) -> int:
    return n


@dataclass
class One:
    a: int


@dataclass
class OneOptional:
    a: int
    b: str | None = None


@dataclass
class OneRequired:
    a: int
    b: str


@dataclass
class Renamed:
    c: int


class Small(Enum):
    A = "a"


class Wide(Enum):
    A = "a"
    B = "b"


FIRST: list[FlowStep] = [act("one", do), rest("rest", 60), wait("go", Signal("go", int))]


def flow(steps: list[FlowStep], *, version: int = 1, type: Any = One, state: Any = dict) -> Any:
    def initial(given: Any) -> Any:
        return {}

    initial.__annotations__ = {"given": type, "return": state}
    return workflow("flow", steps=steps, initial=initial, version=version)


def verdict(before: Any, after: Any) -> str:
    return compare(contract_of(before), contract_of(after)).verdict


def test_a_contract_names_what_runs_depend_on() -> None:
    contract = contract_of(flow(FIRST))
    assert [(one["id"], one["kind"]) for one in contract["steps"]] == [
        ("one", "act"),
        ("rest", "sleep"),
        ("go", "wait"),
    ]
    assert (contract["mode"], contract["steps"][0]["step"], contract["signals"]) == (
        "steps",
        "do",
        {"go": {"type": "integer"}},
    )
    shuffled = dict(reversed(json.loads(json.dumps(contract)).items()))
    assert hash_of(shuffled) == contract["hash"] == contract_of(flow(FIRST, version=2))["hash"]


def test_a_workflow_of_code_has_a_contract_without_steps() -> None:
    @workflow("flow")
    async def code(wf: Wf, given: One) -> dict[str, Any]:
        return {}

    assert (contract_of(code)["mode"], contract_of(code)["steps"]) == ("run", [])
    assert verdict(code, flow(FIRST)) == "breaking"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (FIRST, "identical"),
        ([*FIRST, act("more", do)], "additive"),
        ([*FIRST, wait("again", "again")], "additive"),
        ([act("more", do), *FIRST], "requires_migration"),
        ([FIRST[0], act("more", do), *FIRST[1:]], "requires_migration"),
        (FIRST[1:], "breaking"),
        ([FIRST[1], FIRST[0], FIRST[2]], "breaking"),
        ([act("one", other), *FIRST[1:]], "breaking"),
        ([rest("one", 1), *FIRST[1:]], "breaking"),
        ([FIRST[0], rest("rest", 3600), FIRST[2]], "identical"),
        ([*FIRST[:2], wait("go", Signal("go", str))], "breaking"),
        ([*FIRST[:2], wait("go", "stop")], "breaking"),
    ],
)
def test_steps_are_compared(steps: list[FlowStep], expected: str) -> None:
    assert verdict(flow(FIRST), flow(steps)) == expected


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ([act("in", do)], "identical"),
        ([act("in", do), act("more", do)], "requires_migration"),
        ([act("more", do)], "breaking"),
    ],
)
def test_steps_inside_steps_are_compared(then: list[FlowStep], expected: str) -> None:
    before = flow([branch("b", bool, then=[act("in", do)]), rest("rest", 1)])
    assert verdict(before, flow([branch("b", bool, then=then), rest("rest", 1)])) == expected
    inside = flow([each("e", list, [act("in", do, into="x")])])
    assert verdict(inside, flow([each("e", list, act("in", do))])) == "breaking"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (One, OneOptional, "additive"),
        (One, OneRequired, "breaking"),
        (OneOptional, One, "breaking"),
        (OneRequired, OneOptional, "additive"),
        (One, Renamed, "breaking"),
        (int, str, "breaking"),
        (list[int], list[str], "breaking"),
        (list[One], list[OneOptional], "additive"),
        (dict[str, int], dict[str, str], "breaking"),
        (int, int | None, "additive"),
        (int | None, int, "breaking"),
        (Literal["a"], Literal["a", "b"], "additive"),
        (Literal["a", "b"], Literal["a"], "breaking"),
        (Small, Wide, "additive"),
        (Any, int, "breaking"),
        (int, Any, "additive"),
    ],
)
def test_inputs_are_compared(before: Any, after: Any, expected: str) -> None:
    assert verdict(flow(FIRST, type=before), flow(FIRST, type=after)) == expected


def standings(found: Any) -> list[str]:
    return [one.standing for one in found]


def test_files_are_written_once_and_checked(tmp_path: Path) -> None:
    place = tmp_path / "contracts"
    assert standings(check_contracts([flow(FIRST)], place)) == ["new"]
    assert not place.exists()
    assert standings(write_contracts([flow(FIRST)], place)) == ["new"]
    file = place / "flow.v1.contract.json"
    text = file.read_text()
    assert standings(check_contracts([flow(FIRST)], place)) == ["unchanged"]
    longer = [*FIRST, act("more", do)]
    (changed,) = write_contracts([flow(longer)], place)
    assert changed.standing == "refused"
    assert "give it version 2" in changed.why
    assert standings(write_contracts([flow(FIRST), flow(longer, version=2)], place)) == ["unchanged", "new"]
    assert standings(check_contracts([flow(FIRST), flow(longer, version=2)], place)) == ["unchanged", "unchanged"]
    assert file.read_text() == text
    # a version is never judged by the one that is gone
    assert standings(check_contracts([flow(longer, version=2)], place)) == ["unchanged"]


def test_a_version_that_runs_would_not_survive_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write_contracts([flow(FIRST)], tmp_path)
    inserted = flow([act("more", do), *FIRST], version=2)
    (refused,) = write_contracts([inserted], tmp_path)
    assert (refused.standing, refused.verdict) == ("refused", "requires_migration")
    assert "step 'more' was inserted" in refused.why
    assert [file.name for file in tmp_path.iterdir()] == ["flow.v1.contract.json"]
    assert standings(write_contracts([inserted], tmp_path, allow_breaking=True)) == ["new"]
    (leap,) = check_contracts([flow(FIRST, version=4)], tmp_path)
    assert "the version after 2 is 3" in leap.why


def test_versions_side_by_side_are_written_one_after_the_other(tmp_path: Path) -> None:
    longer = [*FIRST, act("more", do)]
    found = write_contracts([flow(longer, version=2), flow(FIRST)], tmp_path)
    assert standings(found) == ["new", "new"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_no_contract_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}"):
        (tmp_path / "flow.v1.contract.json").write_text(text)
        with pytest.raises(UsageError, match=r"flow\.v1\.contract\.json is no contract"):
            check_contracts([flow(FIRST)], tmp_path)


def test_names_are_safe_in_file_names(tmp_path: Path) -> None:
    named = workflow("a/b:c", steps=FIRST)
    write_contracts([named], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a%2Fb%3Ac.v1.contract.json"]
    assert standings(check_contracts([named], tmp_path)) == ["unchanged"]
