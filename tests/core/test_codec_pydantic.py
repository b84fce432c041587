"""pydantic models are payloads like any other, wherever they appear in an annotation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, cast
from uuid import UUID

import msgspec
import pydantic
import pytest

from chimpbase._core.codec import codec_for
from chimpbase._core.errors import PayloadError, UsageError


class Line(pydantic.BaseModel):
    sku: str
    count: int = pydantic.Field(gt=0)


class Order(pydantic.BaseModel):
    id: int
    lines: list[Line] = []
    at: datetime | None = None
    ratio: float | None = None
    price: Decimal | None = None
    key: UUID | None = None


class Camel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=lambda name: name.title().replace("_", ""))
    order_id: int


class Renamed(pydantic.BaseModel):
    order_id: int = pydantic.Field(serialization_alias="orderId")


@dataclass
class Envelope:
    order: Order
    label: str = "none"


@dataclass
class Limited:
    count: Annotated[int, pydantic.Field(gt=0)]


class Box(msgspec.Struct):
    size: int


NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (
            Order,
            Order(id=1, lines=[Line(sku="a", count=2)], at=NOON, ratio=0.1, price=Decimal("1.10"), key=UUID(int=1)),
        ),
        (Order | None, None),
        (list[Order], [Order(id=1), Order(id=2)]),
        (dict[str, Order], {"a": Order(id=1)}),
        (Envelope, Envelope(Order(id=1))),
        (Camel, Camel(OrderId=3)),  # pyright: ignore[reportCallIssue]  # the generated alias
        (Renamed, Renamed(order_id=3)),
        (Limited, Limited(2)),
    ],
)
def test_models_come_back_equal(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    assert codec.decode(codec.encode(value, subject="test"), subject="test") == value
    assert codec.convert(value, subject="test") == value


def test_aliases_are_written_and_names_are_read_too() -> None:
    codec = codec_for(Camel)
    assert codec.encode(codec.decode('{"order_id": 3}', subject="test"), subject="test") == '{"OrderId":3}'


@pytest.mark.parametrize(
    ("annotation", "value", "path", "words"),
    [
        (Order, Order.model_construct(id=cast(Any, "x")), "$.id", "integer"),
        (Order, Order(id=1, lines=[Line.model_construct(sku="a", count=0)]), "$.lines[0].count", "greater than 0"),
        (Order, Order(id=2**63), "$.id", "2^63"),
        (Order, Order(id=1, ratio=math.nan), "$.ratio", "nan"),
        (Order, Order(id=1, at=datetime(2026, 1, 1)), "$.at", "without a time zone"),
        (Order, Order(id=1, lines=[Line(sku="a\0", count=1)]), "$.lines[0].sku", "U+0000"),
        (Order, Order.model_construct(id=1, lines=[Line.model_construct(sku="\ud800", count=1)]), None, ""),
        (Envelope, Envelope(Order.model_construct(id=cast(Any, object()))), None, ""),
        (Limited, Limited(-1), "$.count", "greater than 0"),
        (Order, object(), None, ""),
    ],
)
def test_a_model_that_does_not_fit_is_refused(annotation: Any, value: Any, path: str | None, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation).encode(value, subject="test")
    assert words in caught.value.reason
    assert path in (None, caught.value.path)


def test_stored_text_and_converted_values_are_validated() -> None:
    codec = codec_for(Order)
    lists: list[Any] = [{"id": []}, {"id": 1, "lines": [{"sku": "a"}]}, {"id": 1, "at": "2026-01-01T00:00:00"}]
    for wrong in lists:
        with pytest.raises(PayloadError):
            codec.convert(wrong, subject="test")
        with pytest.raises(PayloadError):
            codec.decode(msgspec.json.encode(wrong), subject="test")
    assert codec.convert({"id": "7"}, subject="test", lax=True) == Order(id=7)


def test_models_are_objects_and_have_schemas() -> None:
    assert [codec_for(item).is_object for item in (Order, Order | None, Envelope, list[Order])] == [True] * 3 + [False]
    assert codec_for(Order).schema()["required"] == ["id"]
    assert len(codec_for(Order).fingerprint()) == 16


def test_a_struct_beside_a_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Box"):
        codec_for(dict[str, Order | Box])
