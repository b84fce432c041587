"""Which types may be payloads, and what a codec says about them."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pytest

from chimpbase._core.codec import codec_for
from chimpbase._core.errors import PayloadError, UsageError

T = TypeVar("T")


@dataclass
class Ship:
    order_id: int
    sku: str = "none"


@dataclass
class Tree(Generic[T]):
    value: T
    branches: list[Tree[T]] = dataclasses.field(default_factory=list["Tree[T]"])


class Point(NamedTuple):
    x: int


class Parcel(TypedDict):
    weight: int


class Box(msgspec.Struct):
    size: int


@attrs.define
class Crate:
    size: int


class Colour(enum.Enum):
    RED = "red"


def test_a_recursive_generic_class_is_a_type_like_any_other() -> None:
    codec = codec_for(Tree[int])
    tree = Tree(1, [Tree(2), Tree(3, [Tree(4)])])
    assert codec.decode(codec.encode(tree, subject="test"), subject="test") == tree
    wrong: Any = Tree("two")
    with pytest.raises(PayloadError) as caught:
        codec.encode(Tree(1, [wrong]), subject="test")
    assert caught.value.path == "$.branches[0].value"


def test_the_fingerprint_follows_the_shape_and_not_the_prose() -> None:
    first = dataclasses.make_dataclass("One", [("a", int)])
    same = dataclasses.make_dataclass("One", [("a", int)])
    same.__doc__ = "Another text."
    other = dataclasses.make_dataclass("One", [("a", str)])
    assert codec_for(first).fingerprint() == codec_for(same).fingerprint()
    assert codec_for(first).fingerprint() != codec_for(other).fingerprint()
    assert len(codec_for(first).fingerprint()) == 16


def test_a_property_called_title_counts_in_the_fingerprint() -> None:
    plain = dataclasses.make_dataclass("Book", [("isbn", int)])
    titled = dataclasses.make_dataclass("Book", [("isbn", int), ("title", str, "untitled")])
    assert codec_for(plain).fingerprint() != codec_for(titled).fingerprint()


def test_the_schema_describes_the_type() -> None:
    definitions = codec_for(Ship).schema()["$defs"]
    assert definitions["Ship"]["required"] == ["order_id"]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (complex, "complex"),
        (list[type], "type"),
        (Callable[[int], int], "Callable"),
        (Ship | dict[str, int], "more than one dict-like"),
        (dict[str, Exception], "Exception"),
        (dataclasses.make_dataclass("Deep", [("inner", list[complex])]), "complex"),
        (msgspec.Raw, "not validated"),
        (dataclasses.make_dataclass("Lost", [("x", "Nowhere")]), "Nowhere"),
        (typing.Never, "Never"),
    ],
)
def test_a_type_that_cannot_be_a_payload_is_a_usage_error_that_names_it(annotation: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        codec_for(annotation)
    assert not isinstance(caught.value, PayloadError)


def test_one_annotation_has_one_codec() -> None:
    assert codec_for(list[Ship]) is codec_for(list[Ship])
    assert codec_for(typing.Annotated[int, {"unhashable": 1}]).decode("1", subject="test") == 1


def test_only_an_object_is_an_object() -> None:
    objects = (Ship, Box, Crate, Parcel, dict[str, int], Any, Ship | None)
    others = (int, str, list[Ship], Point, None, datetime, Colour)
    assert [codec_for(item).is_object for item in (*objects, *others)] == [True] * 7 + [False] * 7


def test_nothing_imports_pydantic_until_a_type_asks_for_it() -> None:
    program = (
        "import sys; from chimpbase._core.codec import codec_for; codec_for(dict[str, int]); "
        "import chimpbase._core.parameters; sys.exit('pydantic' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], check=False, env={"PYTHONPATH": ":".join(sys.path)})
    assert found.returncode == 0
