"""A signature is read once; JSON becomes its arguments by one rule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

from chimpbase._core.errors import PayloadError, UsageError
from chimpbase._core.parameters import REQUIRED, Parameters, location

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


@dataclass
class Ship:
    order_id: int
    sku: str = "none"


class Model(pydantic.BaseModel):
    id: int


async def body(ctx: object, new: Ship) -> Ship: ...  # pyright: ignore[reportReturnType]
async def optional_body(ctx: object, new: Ship | None = None) -> None: ...
async def scalar(ctx: object, order_id: int) -> str: ...  # pyright: ignore[reportReturnType]
async def several(ctx: object, order_id: int, *, ship: Ship, at: datetime | None = None) -> None: ...
async def positional(ctx: object, a: int, b: str = "b", /, c: float = 1.5) -> None: ...
async def items(ctx: object, ids: list[int]) -> None: ...
async def nothing(ctx: object) -> None: ...
async def _untyped(ctx, payload): ...  # type: ignore[no-untyped-def]  # pyright: ignore


untyped: Callable[..., Any] = _untyped  # pyright: ignore[reportUnknownVariableType]


async def model(ctx: object, wanted: Model) -> complex: ...  # pyright: ignore[reportReturnType]
async def starred(ctx: object, *ids: int) -> None: ...
async def unresolved(ctx: object, price: OnlyForCheckers) -> None: ...
async def unstorable(ctx: object, number: complex) -> None: ...
def no_context() -> None: ...


class Callable_:
    async def __call__(self, ctx: object, order_id: int) -> int: ...  # pyright: ignore[reportReturnType]


class Service:
    async def handle(self, ctx: object, order_id: int) -> None: ...


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


def taken(fn: Callable[..., Any], value: Any, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return Parameters.from_function(fn).from_builtins(value, subject="test", **options)


NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


ARGUMENTS: list[Any] = [
    (body, {"order_id": 1}, ((), {"new": Ship(1)})),
    (optional_body, {"order_id": 1}, ((), {"new": Ship(1)})),
    (optional_body, None, ((), {})),
    (scalar, 7, ((), {"order_id": 7})),
    (scalar, {"order_id": 7, "more": 1}, ((), {"order_id": 7})),
    (several, {"order_id": 1, "ship": {"order_id": 2}}, ((), {"order_id": 1, "ship": Ship(2)})),
    (several, [1, {"order_id": 2}], ((), {"order_id": 1, "ship": Ship(2)})),
    (positional, {"a": 1}, ((1, "b"), {})),
    (positional, [1, "x", 2.5], ((1, "x"), {"c": 2.5})),
    (items, [1, 2], ((), {"ids": [1, 2]})),
    (items, {"ids": [1]}, ((), {"ids": [1]})),
    (nothing, None, ((), {})),
    (nothing, {"ignored": 1}, ((), {})),
    (untyped, {"a": 1}, ((), {"payload": {"a": 1}})),
    (untyped, 5, ((), {"payload": 5})),
    (model, {"id": 1}, ((), {"wanted": Model(id=1)})),
    (Callable_(), {"order_id": 1}, ((), {"order_id": 1})),
    (decorated(scalar), 3, ((), {"order_id": 3})),
    (functools.partial(several, ship=Ship(9)), {"order_id": 1}, ((), {"order_id": 1})),
    (Service().handle, {"order_id": 1}, ((), {"order_id": 1})),
]


@pytest.mark.parametrize(
    ("fn", "value", "expected"),
    ARGUMENTS,
)
def test_json_becomes_arguments(fn: Callable[..., Any], value: Any, expected: Any) -> None:
    assert taken(fn, value) == expected


@pytest.mark.parametrize(
    ("fn", "value", "path", "words"),
    [
        (body, {"order_id": "x"}, "$.order_id", "Expected `int`"),
        (body, None, "$", "Expected `object`"),
        (scalar, "7", "$.order_id", "Expected `int`"),
        (scalar, {"orderid": 7}, "$", "missing required parameter `order_id`; got `orderid`"),
        (several, {"order_id": 1, "ship": {"order_id": "x"}}, "$.ship.order_id", "Expected `int`"),
        (several, {"order_id": 1}, "$", "missing required parameter `ship`"),
        (several, {"order_id": 1, "ship": {"order_id": 1}, "at": "2026-01-01T00:00:00"}, "$.at", "time zone"),
        (several, 5, "$", "an object with the parameters of several (order_id, ship, at), got `int`"),
        (several, [1, 2, 3, 4], "$", "array of another length"),
        (nothing, 5, "$", "(none)"),
        (model, {"id": "x"}, "$.id", "integer"),
        (functools.partial(several, ship=Ship(9)), {"order_id": "x"}, "$.order_id", "Expected `int`"),
    ],
)
def test_what_does_not_fit_names_its_place(fn: Callable[..., Any], value: Any, path: str, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        taken(fn, value)
    assert words in caught.value.reason
    assert caught.value.path == path


def test_a_command_line_is_lax_and_refuses_unknown_names() -> None:
    given = {"order_id": "1", "ship": {"order_id": "2"}, "at": "2026-11-23T12:00:00Z"}
    assert taken(several, given, lax=True) == ((), {"order_id": 1, "ship": Ship(2), "at": NOON})
    with pytest.raises(PayloadError, match="no parameter `shp`; did you mean `ship`"):
        taken(several, {"order_id": 1, "ship": {"order_id": 2}, "shp": 1}, extra="refuse")


CALLS: list[Any] = [
    (body, (Ship(1),), {}, '{"order_id":1,"sku":"none"}', ((), {"new": Ship(1)})),
    (optional_body, (), {}, "null", ((), {"new": None})),
    (scalar, (7,), {}, '{"order_id":7}', ((), {"order_id": 7})),
    (
        several,
        (1,),
        {"ship": Ship(2), "at": NOON},
        '{"order_id":1,"ship":{"order_id":2,"sku":"none"},"at":"2026-11-23T12:00:00Z"}',
        ((), {"order_id": 1, "ship": Ship(2), "at": NOON}),
    ),
    (nothing, (), {}, "{}", ((), {})),
    (positional, (1,), {}, '{"a":1}', ((1, "b"), {})),
]


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "text", "expected"),
    CALLS,
)
def test_a_call_is_stored_and_read_back(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], text: str, expected: Any
) -> None:
    parameters = Parameters.from_function(fn)
    assert parameters.encode(args, kwargs, subject="test") == text
    assert parameters.decode(text, subject="test") == expected


def test_a_stored_call_survives_newer_and_older_code() -> None:
    parameters = Parameters.from_function(scalar)
    assert parameters.decode('{"order_id": 1, "added_later": true}', subject="test") == ((), {"order_id": 1})
    assert parameters.decode("5", subject="test") == ((), {"order_id": 5})
    for wrong in ('{"renamed": 1}', '{"order_id": "x"}', "[", ""):
        with pytest.raises(PayloadError):
            parameters.decode(wrong, subject="test")


def test_a_call_that_does_not_fit_the_signature_is_a_usage_error() -> None:
    parameters = Parameters.from_function(several)
    with pytest.raises(UsageError, match=r"several .* cannot be called like this: missing a required argument: 'ship'"):
        parameters.encode((1,), {}, subject="test")
    with pytest.raises(PayloadError, match=r"\$\.ship\.order_id"):
        parameters.encode((1,), {"ship": Ship("x")}, subject="test")  # pyright: ignore[reportArgumentType]
    with pytest.raises(PayloadError, match="the limit is 20"):
        parameters.encode((1,), {"ship": Ship(1)}, subject="test", limit_bytes=20)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (starred, "takes `\\*ids: "),
        (unresolved, "OnlyForCheckers.*module level"),
        (unstorable, "`number: complex` of unstorable"),
        (no_context, "context as its first parameter"),
        (dict, "no signature|context"),
    ],
)
def test_a_signature_that_cannot_be_served_is_a_usage_error_with_its_place(fn: Callable[..., Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Parameters.from_function(fn)
    if hasattr(fn, "__code__"):
        assert f"test_parameters.py:{fn.__code__.co_firstlineno}" in str(caught.value)


def test_a_type_of_the_enclosing_function_is_found_when_the_handler_uses_it() -> None:
    @dataclass
    class Local:
        x: int

    async def handler(ctx: object, value: Local) -> Local:
        return Local(value.x)

    parsed = Parameters.from_function(handler).from_builtins({"x": 1}, subject="test")
    assert parsed == ((), {"value": Local(1)})


def test_the_result_has_a_codec_of_its_own() -> None:
    assert Parameters.from_function(body).return_codec.encode(Ship(1), subject="test") == '{"order_id":1,"sku":"none"}'
    assert Parameters.from_function(untyped).returns is Any
    with pytest.raises(UsageError, match="result of model"):
        _ = Parameters.from_function(model).return_codec


def test_the_schema_says_what_the_body_must_hold() -> None:
    assert Parameters.from_function(body).schema()["$ref"] == "#/$defs/Ship"
    schema = Parameters.from_function(several).schema()
    assert schema["required"] == ["order_id", "ship"]
    assert schema["properties"]["ship"] == {"$ref": "#/$defs/Ship"}
    assert "Ship" in schema["$defs"]


def test_parameters_can_be_listed() -> None:
    found = Parameters.from_function(several)
    assert [(item.name, item.default) for item in found.items] == [
        ("order_id", REQUIRED),
        ("ship", REQUIRED),
        ("at", None),
    ]
    assert found.where == location(several)
    assert found.name == "several"
    assert Parameters.from_function(nothing, skip=0).items[0].name == "ctx"
