"""The codec: what is accepted comes back equal, what is not is a PayloadError that names the place."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest

from chimpbase._core.codec import codec_for
from chimpbase._core.errors import PayloadError


@dataclass
class Ship:
    order_id: int
    sku: str = "none"
    note: str | None = None


@dataclass
class Everything:
    flag: bool
    ratio: float
    price: Decimal
    at: datetime
    on: date
    clock: time
    took: timedelta
    id: UUID
    blob: bytes
    tags: set[str]
    pair: tuple[int, str]
    by_id: dict[UUID, int]
    ships: list[Ship]
    anything: Any = None


class Point(NamedTuple):
    x: int
    y: int = 0


class Parcel(TypedDict, total=False):
    weight: int


class Box(msgspec.Struct):
    size: int
    inner: Box | None = None


@attrs.define
class Crate:
    size: int


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Shout(str):
    """A subclass of str, as template engines make."""


@dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value == 13:
            raise KeyError("thirteen")
        if self.value < 0:
            raise ValueError("must not be negative")


@dataclass
class Measured:
    ratio: float | None
    id: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Measured) and other.id == self.id


@dataclass
class Uncompared:
    ratio: float | None = dataclasses.field(compare=False)


@dataclass
class Prices:
    price: Decimal | None = None
    at: datetime | None = None


NOON = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)
SIGNALLING = Decimal("sNaN")


def refused(annotation: Any, value: Any) -> PayloadError:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation).encode(value, subject="test")
    return caught.value


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Ship, Ship(1, "a", None)),
        (Ship, Ship(-(2**63) + 1, 'a "quoted" \\u0000 text', "\x01\x7f\u2028😀")),
        (
            Everything,
            Everything(
                flag=True,
                ratio=1e300,
                price=Decimal("1.10"),
                at=NOON,
                on=date(1, 1, 1),
                clock=time(23, 59),
                took=timedelta(days=-1, microseconds=1),
                id=UUID(int=7),
                blob=b"\x00\xff",
                tags={"a", "b"},
                pair=(1, "x"),
                by_id={UUID(int=1): 1},
                ships=[Ship(1), Ship(2)],
                anything={"deep": [1, 2.5, None, True]},
            ),
        ),
        (Point, Point(1, 2)),
        (Parcel, {"weight": 3}),
        (Box, Box(1, Box(2))),
        (Crate, Crate(4)),
        (Colour, Colour.RED),
        (Level, Level.LOW),
        (Literal["a", 1], "a"),
        (Ship | None, None),
        (list[Ship], [Ship(index) for index in range(300)]),
        (dict[int, str], {1: "a"}),
        (None, None),
        (float, -0.0),
        (int, 2**63 - 1),
        (Any, {"a": [1, "x", None, {"b": 1.5}], "": []}),
        (object, [1]),
    ],
)
def test_what_is_accepted_comes_back_equal(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    text = codec.encode(value, subject="test")
    assert codec.decode(text, subject="test") == value
    assert codec.decode(text.encode(), subject="test") == value
    assert codec.convert(value, subject="test") == value
    json.loads(text)


@pytest.mark.parametrize(
    ("annotation", "value", "path", "words"),
    [
        (Ship, Ship(cast(Any, "x")), "$.order_id", "Expected `int`, got `str`"),
        (Ship, Ship(cast(Any, 1.0)), "$.order_id", "Expected `int`, got `float`"),
        (Ship, Ship(cast(Any, True)), "$.order_id", "Expected `int`, got `bool`"),
        (Ship, Ship(1, cast(Any, b"bytes")), "$.sku", "is bytes where no bytes are declared"),
        (Ship, Ship(1, cast(Any, UUID(int=1))), "$.sku", "Expected `str`, got `uuid`"),
        (Ship, Ship(1, cast(Any, NOON)), "$.sku", "Expected `str`, got `datetime`"),
        (Ship, Ship(1, "a", cast(Any, math.nan)), "$.note", "nan"),
        (Ship, Ship(2**63), "$.order_id", "2^63"),
        (Ship, Ship(-(2**63)), "$.order_id", "2^63"),
        (Ship, Ship(10**400), "$.order_id", "2^63"),
        (Ship, Ship(1, "a\0b"), "$.sku", "U+0000"),
        (Ship, Ship(1, "a\udc80"), "$.sku", "U+DC80"),
        (Ship, {"sku": "x"}, "$", "missing required field `order_id`"),
        (Ship, [], "$", "Expected `object`, got `array`"),
        (list[Ship], [Ship(1), Ship(2, "\0")], "$[1].sku", "U+0000"),
        (dict[str, Ship], {"a b": Ship(1, "\ud800")}, '$["a b"].sku', "U+D800"),
        (Prices, Prices(Decimal("NaN")), "$.price", "not a finite"),
        (Prices, Prices(SIGNALLING), "$.price", "not a finite"),
        (Prices, Prices(Decimal("-Infinity")), "$.price", "not a finite"),
        (Prices, Prices(at=datetime(2026, 1, 1)), "$.at", "without a time zone"),
        (Prices, Prices(at=datetime(2026, 1, 1, microsecond=7)), "$.at", "without a time zone"),
        (Prices, {"at": "2026-01-01T00:00:00"}, "$.at", "without a time zone"),
        (datetime, NOON.astimezone(timezone(timedelta(seconds=3601))), "$", "UTC offset has seconds"),
        (Measured, Measured(math.nan), "$.ratio", "nan"),
        (Uncompared, Uncompared(math.inf), "$.ratio", "inf"),
        (Any, {"a": [1, math.nan]}, "$.a[1]", "nan"),
        (Any, {"a": {"b": (1, -math.inf)}}, "$.a.b[1]", "-inf"),
        (Any, {"x": {"a\0": 1}}, '$.x["a\\u0000"]', "U+0000"),
        (Any, {"x": {"a\ud800": 1}}, '$.x["a\\ud800"]', "U+D800"),
        (Any, {"x": {1: "a"}}, "$.x[1]", "key"),
        (Any, {"x": {NOON: "a"}}, None, "key"),
        (Any, {None: 1}, "$[None]", "key None"),
        (Any, {(1, 2): 1}, "$[(1, 2)]", "cannot be a JSON key"),
        (Any, {"x": b"raw"}, "$.x", "bytes"),
        (Any, [bytearray(b"raw")], "$[0]", "bytes"),
        (Any, {"x": [object()]}, "$.x[0]", "object"),
        (Any, {"x": (i for i in "ab")}, "$.x", "generator"),
        (Any, {"x": 1j}, "$.x", "complex"),
        (Any, [Ship(1, cast(Any, 1j))], "$[0].sku", "complex"),
        (Any, [Crate(cast(Any, int))], "$[0].size", "type"),
        (Any, [Box(cast(Any, len))], "$[0].size", "builtin_function"),
        (Any, {"at": datetime(2026, 1, 1)}, "$.at", "without a time zone"),
        (Any, {"n": [2**64]}, "$.n[0]", "2^63"),
        (Any, msgspec.Raw(b"1"), "$", "Raw"),
    ],
)
def test_what_is_refused_names_its_place(annotation: Any, value: Any, path: str | None, words: str) -> None:
    error = refused(annotation, value)
    assert words in error.reason
    assert path in (None, error.path)
    assert error.subject == "test"
    assert str(error).startswith("test: ")


def test_a_coroutine_is_told_to_be_awaited() -> None:
    forgotten = nothing()
    try:
        assert "await" in refused(Any, {"x": forgotten}).reason
    finally:
        forgotten.close()


def test_validation_by_the_type_itself_is_a_payload_error_whatever_it_raises() -> None:
    codec = codec_for(Positive)
    for text, words in (('{"value": -1}', "must not be negative"), ('{"value": 13}', "KeyError: 'thirteen'")):
        with pytest.raises(PayloadError, match=words):
            codec.decode(text, subject="test")


def test_any_takes_documented_types_as_their_json_form() -> None:
    codec = codec_for(Any)
    value = {"at": NOON, "id": UUID(int=1), "price": Decimal("1.5"), "tags": (1, 2), "ship": Ship(1), "c": Colour.RED}
    back = codec.decode(codec.encode(value, subject="test"), subject="test")
    assert back == {
        "at": "2026-11-23T12:00:00.000005Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "price": "1.5",
        "tags": [1, 2],
        "ship": {"order_id": 1, "sku": "none", "note": None},
        "c": "red",
    }


def test_a_subclass_of_text_is_stored_as_text() -> None:
    codec = codec_for(Ship)
    assert codec.encode(Ship(1, Shout("loud")), subject="test") == '{"order_id":1,"sku":"loud","note":null}'


def test_a_dict_given_for_a_dataclass_is_stored_as_given() -> None:
    codec = codec_for(Ship)
    text = codec.encode(cast(Any, {"order_id": 1, "from_newer_code": [1]}), subject="test")
    assert codec.decode(text, subject="test") == Ship(1)
    with pytest.raises(PayloadError, match="bytes"):
        codec.encode(cast(Any, {"order_id": 1, "extra": {"x": b"raw"}}), subject="test")


def test_an_ambiguous_hour_survives() -> None:
    # PEP 495: a time inside an overlap never equals one of another zone
    inside = datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))
    codec = codec_for(datetime)
    back = codec.decode(codec.encode(inside, subject="test"), subject="test")
    assert back.timestamp() == inside.timestamp()


def test_the_limit_counts_bytes_of_json() -> None:
    codec = codec_for(str)
    assert codec.encode("é" * 9, subject="test", limit_bytes=20) == '"' + "é" * 9 + '"'
    with pytest.raises(PayloadError, match="takes 22 bytes as JSON; the limit is 20"):
        codec.encode("é" * 10, subject="test", limit_bytes=20)
    with pytest.raises(PayloadError, match="the limit is 1,048,576"):
        codec.encode("x" * 1024 * 1024, subject="test")


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_hundred_levels_are_stored_and_one_more_is_not() -> None:
    codec = codec_for(Any)
    assert codec.decode(codec.encode(nested(100), subject="test"), subject="test") == nested(100)
    for levels in (101, 150, 5_000, 100_000):
        error = refused(Any, nested(levels))
        assert "100 levels" in error.reason
        assert len(error.path) < 250
    # brackets inside text are not levels
    assert codec.encode(["[" * 500, '\\"{' * 100] * 60, subject="test")
    box: Box | None = None
    for size in range(120):
        box = Box(size, box)
    assert "100 levels" in refused(Box, box).reason


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "100 levels" in refused(Any, loop).reason


@pytest.mark.parametrize(
    ("annotation", "text", "path", "words"),
    [
        (Ship, '{"order_id": "3"}', "$.order_id", "Expected `int`, got `str`"),
        (Ship, "{}", "$", "missing required field `order_id`"),
        (Ship, '{"order_id": 1', "$", "is not valid JSON"),
        (Ship, "", "$", "is not valid JSON"),
        (Ship, b'{"order_id": 1, "sku": "\xff"}', "$", "UTF-8"),
        (Any, b'"\xff"', "$", "UTF-8"),
        (Any, "NaN", "$", "is not valid JSON"),
        (Any, '"\\ud800"', "$", "is not valid JSON"),
        (float, "1e400", "$", "out of range"),
        (int, "1" + "0" * 5000, "$", "out of range"),
        (Any, "[" * 5000 + "]" * 5000, "$", "100 levels"),
        (dict[int, int], '{"a": 1}', "$", "(in a key)"),
        (list[Prices], '[{"at": "2026-01-01 10:00:00"}]', "$[0].at", "without a time zone"),
        (UUID, '"nope"', "$", "UUID"),
    ],
)
def test_stored_text_that_does_not_fit_names_its_place(
    annotation: Any, text: str | bytes, path: str, words: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation).decode(text, subject="test")
    assert words in caught.value.reason
    assert caught.value.path == path


def test_unknown_fields_are_ignored_and_missing_ones_default() -> None:
    assert codec_for(Ship).decode('{"order_id": 1, "new": {"x": 1}}', subject="test") == Ship(1)


def test_floats_are_written_so_that_jsonb_keeps_them_floats() -> None:
    # of 5.642316152429107e16 jsonb makes the integer 56423161524291070, which is another number than the float
    for annotation in (Any, float):
        codec = codec_for(annotation)
        assert codec.encode(5.642316152429107e16, subject="test") == "56423161524291070.0"
        assert codec.encode(-1e22, subject="test") == "-10000000000000000000000.0"
        assert codec.encode(1e-7, subject="test") == "1e-7"
        assert codec.decode(codec.encode(1.7976931348623157e308, subject="test"), subject="test") == sys.float_info.max
    tree = {"3e5": ["1e22", 1e22, "\\" + '"1e5', 2], "id": UUID("00000000-0000-0000-0000-00000000001e")}
    text = codec_for(Any).encode(tree, subject="test")
    assert '["1e22",10000000000000000000000.0,' in text
    assert codec_for(Any).decode(text, subject="test") == {**tree, "id": str(tree["id"])}
    with pytest.raises(PayloadError, match="the limit is 100"):
        codec_for(Any).encode(1e300, subject="test", limit_bytes=100)


def test_numbers_that_jsonb_has_written_out_still_read_back() -> None:
    assert codec_for(float).decode("1" + "0" * 300, subject="test") == 1e300
    assert codec_for(Any).decode("0." + "0" * 25 + "1", subject="test") == 1e-26


def test_convert_is_strict_unless_it_is_lax() -> None:
    codec = codec_for(Ship)
    with pytest.raises(PayloadError) as caught:
        codec.convert({"order_id": "3"}, subject="test")
    assert caught.value.path == "$.order_id"
    assert codec.convert({"order_id": "3", "note": "null"}, subject="test", lax=True).order_id == 3
    assert codec_for(bool).convert("true", subject="test", lax=True) is True
    assert codec_for(list[int]).convert(["1", "2"], subject="test", lax=True) == [1, 2]


def test_convert_validates_instances_and_copies_them() -> None:
    codec = codec_for(list[Ship])
    given = [Ship(1)]
    taken = codec.convert(given, subject="test")
    assert taken == given
    assert taken[0] is not given[0]
    for wrong in (Ship(cast(Any, "x")), Ship(1, "\0"), object(), math.nan):
        with pytest.raises(PayloadError):
            codec.convert([wrong], subject="test")


def test_lax_text_cannot_smuggle_what_json_cannot_say() -> None:
    for annotation, text in ((float, "nan"), (float, "-inf"), (Decimal, "NaN"), (datetime, "2026-01-01T00:00:00")):
        with pytest.raises(PayloadError):
            codec_for(annotation).convert(text, subject="test", lax=True)
