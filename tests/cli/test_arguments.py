"""Arguments of an action: text by the declared type, or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from chimpbase import Ctx, action
from chimpbase.cli.arguments import read_arguments
from chimpbase.cli.failures import CommandFailed


@dataclass
class Line:
    sku: str
    quantity: int = 1


@action
async def order(ctx: Ctx, line: Line) -> None: ...


@action
async def plan(
    ctx: Ctx, day: date, count: int, ratio: float = 1.0, tags: list[str] | None = None, on: bool = True
) -> None: ...


@action
async def take(ctx: Ctx, given: dict[str, Any]) -> None: ...


@action
async def nothing(ctx: Ctx) -> None: ...


def test_text_is_read_as_the_declared_type() -> None:
    _, kwargs = read_arguments(plan, ["day=2026-11-23", "count=3", "ratio=0.5", "on=false"])
    assert kwargs == {"day": date(2026, 11, 23), "count": 3, "ratio": 0.5, "on": False}


def test_json_is_taken_as_it_is() -> None:
    _, kwargs = read_arguments(plan, ["day=2026-11-23", "count:=3", 'tags:=["a", "b=c"]'])
    assert kwargs["tags"] == ["a", "b=c"]


def test_an_only_object_takes_its_fields_or_itself() -> None:
    expected = {"line": Line("tea", 2)}
    assert read_arguments(order, ["sku=tea", "quantity=2"])[1] == expected
    assert read_arguments(order, ['line:={"sku": "tea", "quantity": 2}'])[1] == expected


def test_a_value_may_hold_anything_after_the_first_equals() -> None:
    assert read_arguments(order, ["sku=a=b:=c d"])[1] == {"line": Line("a=b:=c d")}
    assert read_arguments(order, ["sku="])[1] == {"line": Line("")}


def test_an_object_of_any_fields_takes_any() -> None:
    assert read_arguments(take, ["a=1", "b:=2"])[1] == {"given": {"a": "1", "b": 2}}
    assert read_arguments(take, [])[1] == {"given": {}}
    assert read_arguments(nothing, []) == ((), {})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sku=tea", "quantity=two"], "at `$.quantity`"),
        (["sku=tea", "quantty=2"], "did you mean 'quantity'? - at `$.quantty`"),
        (["quantity=2"], "sku"),
        (["sku"], "'sku' is no argument. Write key=text or key:=json."),
        (["sku=a", "sku=b"], "'sku' is given twice."),
        (["sku:=tea"], "is not JSON"),
    ],
)
def test_a_wrong_argument_is_refused_with_path_and_signature(words: list[str], sentence: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        read_arguments(order, words)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith("\n  order(line: Line) -> None")
    assert caught.value.code == 2


def test_a_parameter_that_is_not_there_is_refused() -> None:
    with pytest.raises(CommandFailed, match="has no parameter `contt`; did you mean `count`"):
        read_arguments(plan, ["day=2026-11-23", "count=3", "contt=4"])
