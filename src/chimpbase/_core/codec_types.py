"""The two libraries behind a codec: msgspec for native types, pydantic wherever one of its types appears.

`engine_for` looks at an annotation once, at registration, and answers with the functions that fit it, or says what is
wrong with it. Invariant: pydantic is imported only when an annotation mentions it. Absent on purpose: storage rules,
which are the same for both (`codec_tree`), and any cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

import msgspec
from msgspec import inspect as shapes

from chimpbase._core.errors import UsageError

NATIVE_LEAVES = (bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal)

_CLASSES = (shapes.StructType, shapes.DataclassType, shapes.TypedDictType, shapes.NamedTupleType)
_ADVICE = "Use a dataclass, TypedDict, NamedTuple, msgspec.Struct, attrs class, builtin type or pydantic model"


@dataclass(frozen=True, slots=True)
class Engine:
    """What a codec needs from a library, for one annotation. The callables raise the library's own errors.

    `has_datetime` and `has_decimal` tell whether a declared type can hold a value that encodes well and still cannot be
    stored, `has_float` whether it can hold a number that jsonb would make an integer of. `is_shallow`: no value of the
    type is nested deep. `trust_equality` is False when two values may be equal and differ: a custom `__eq__`, or fields
    left out of it.
    """

    dump: Callable[[Any], bytes]
    load: Callable[[bytes | str], Any]
    plain: Callable[[Any], Any]
    take: Callable[[Any, bool], Any]
    schema: Callable[[], dict[str, Any]]
    has_datetime: bool
    has_decimal: bool
    has_float: bool
    is_shallow: bool
    trust_equality: bool
    is_object: bool


def engine_for(annotation: Any) -> Engine:
    """Choose the library for `annotation` and prepare its functions.

    Raises: UsageError, naming the type that cannot be a payload.
    """
    annotation = Any if annotation is object else annotation
    try:
        mentioned = list(_mentioned(annotation, seen=set()))
    except (NameError, AttributeError) as error:
        raise UsageError(
            f"The type {describe_type(annotation)} has an annotation that cannot be resolved: {error}. "
            "Define the types it names at module level."
        ) from None
    try:
        if any(_wants_pydantic(item) for item in mentioned):
            return _pydantic_engine(annotation, mentioned)
        return _native_engine(annotation, mentioned)
    except UsageError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UsageError(f"{describe_type(annotation)} cannot be a payload type: {reason}. {_ADVICE}.") from error


def describe_type(annotation: Any) -> str:
    """Name a type as a programmer would write it."""
    if isinstance(annotation, type) and not get_args(annotation):
        module = annotation.__module__
        return annotation.__qualname__ if module == "builtins" else f"{module}.{annotation.__qualname__}"
    return str(annotation)


def to_plain(value: Any) -> Any:
    """Flatten to dicts and lists; dates, UUIDs, Decimals and bytes stay as they are. Raises msgspec's errors."""
    return msgspec.to_builtins(value, builtin_types=NATIVE_LEAVES, enc_hook=_encode_subclass)


def _native_engine(annotation: Any, mentioned: list[Any]) -> Engine:
    nodes = list(_nodes(shapes.type_info(annotation), seen=set()))
    for node in nodes:
        if isinstance(node, shapes.CustomType) and node.cls is not object:
            raise UsageError(f"{describe_type(node.cls)} cannot be part of a payload. {_ADVICE}.")
        if isinstance(node, (shapes.RawType, shapes.ExtType)):
            raise UsageError(f"{type(node).__name__} cannot be part of a payload: it is not validated. {_ADVICE}.")
    encoder = msgspec.json.Encoder(enc_hook=_encode_subclass)

    def take(value: Any, lax: bool) -> Any:
        return msgspec.convert(to_plain(value), annotation, strict=not lax)

    return Engine(
        dump=encoder.encode,
        load=msgspec.json.Decoder(annotation).decode,
        plain=to_plain,
        take=take,
        schema=lambda: msgspec.json.schema(annotation),
        has_datetime=any(isinstance(node, shapes.DateTimeType) for node in nodes),
        has_decimal=any(isinstance(node, shapes.DecimalType) for node in nodes),
        has_float=any(isinstance(node, (shapes.FloatType, shapes.AnyType, shapes.CustomType)) for node in nodes),
        is_shallow=_is_shallow(nodes),
        trust_equality=all(_equality_is_complete(item) for item in mentioned),
        is_object=_is_object(nodes[0]),
    )


def _pydantic_engine(annotation: Any, mentioned: list[Any]) -> Engine:
    try:
        from pydantic import BaseModel, TypeAdapter
    except ImportError:
        raise UsageError(
            f"{describe_type(annotation)} needs pydantic>=2.11, which is not installed. Install it, or use a dataclass."
        ) from None
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    # names and aliases are both read, so a row stays readable when an alias is added later
    options: dict[str, Any] = {"by_alias": True, "by_name": True}

    def load(text: bytes | str) -> Any:
        return adapter.validate_json(text, **options)

    def dump(value: Any) -> bytes:
        # a mismatch is only a warning to pydantic's serializer; the codec reads the text back and finds it there
        aliased = adapter.dump_json(value, by_alias=True, warnings="none")
        try:
            load(aliased)
        except ValueError:
            # a serialization_alias that validation does not know: field names always read back
            return adapter.dump_json(value, by_alias=False, warnings="none")
        return aliased

    def plain(value: Any) -> Any:
        return to_plain(adapter.dump_python(value, by_alias=True, warnings="none"))

    def take(value: Any, lax: bool) -> Any:
        # through JSON: in Python mode a strict model would refuse the text of a date or a UUID
        return load(dump(value))

    return Engine(
        dump=dump,
        load=load,
        plain=plain,
        take=take,
        schema=lambda: adapter.json_schema(by_alias=True),
        has_datetime=True,
        has_decimal=True,
        has_float=True,
        is_shallow=False,
        trust_equality=all(
            item.__eq__ is BaseModel.__eq__
            if isinstance(item, type) and issubclass(item, BaseModel)
            else _equality_is_complete(item)
            for item in mentioned
        ),
        is_object=_holds_fields(annotation),
    )


def _mentioned(annotation: Any, *, seen: set[object]) -> Iterator[Any]:
    """Yield every type and every piece of Annotated metadata reachable from an annotation."""
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    yield annotation
    if get_origin(annotation) is Literal:
        return
    inner: list[Any] = [*get_args(annotation), *getattr(annotation, "__metadata__", ())]
    for indirection in ("__value__", "__supertype__"):  # `type X = ...` and NewType
        if not isinstance(annotation, type) and hasattr(annotation, indirection):
            inner += [getattr(annotation, indirection)]
    cls = get_origin(annotation) or annotation
    # once per class: a recursive generic class names itself through a new alias object each time
    if isinstance(cls, type) and _has_fields(cls) and (cls, "fields") not in seen:
        seen.add((cls, "fields"))
        inner.extend(get_type_hints(cls, include_extras=True).values())
    for item in inner:
        yield from _mentioned(item, seen=seen)


def _has_fields(cls: type[Any]) -> bool:
    return (
        dataclasses.is_dataclass(cls)
        or is_typeddict(cls)
        or issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or (issubclass(cls, tuple) and "_fields" in dir(cast(object, cls)))
    )


def _wants_pydantic(item: Any) -> bool:
    # a class that only offers a schema hook is pydantic's too; so are constraints that msgspec would silently ignore
    if isinstance(item, type):
        return hasattr(item, "__pydantic_core_schema__") or hasattr(item, "__get_pydantic_core_schema__")
    module = type(item).__module__
    return module.partition(".")[0] in ("pydantic", "annotated_types")


def _nodes(node: shapes.Type, *, seen: set[int]) -> Iterator[shapes.Type]:
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    for name in node.__struct_fields__:
        held: Any = getattr(node, name, None)
        for part in cast("tuple[Any, ...]", held) if isinstance(held, tuple) else (held,):
            inner = part.type if isinstance(part, shapes.Field) else part
            if isinstance(inner, shapes.Type):
                yield from _nodes(inner, seen=seen)


def _is_shallow(nodes: list[shapes.Type]) -> bool:
    # without Any and without a class that leads back to itself, a value is no deeper than its type has nodes
    if len(nodes) > 50 or any(isinstance(node, (shapes.AnyType, shapes.CustomType)) for node in nodes):
        return False
    for node in nodes:
        if isinstance(node, _CLASSES):
            below = [part for field in node.fields for part in _nodes(field.type, seen=set())]
            if any(isinstance(part, _CLASSES) and part.cls is node.cls for part in below):
                return False
    return True


def _is_object(node: shapes.Type) -> bool:
    if isinstance(node, shapes.UnionType):
        return any(_is_object(member) for member in node.types)
    if isinstance(node, shapes.StructType):
        return not node.array_like
    return isinstance(node, (shapes.DataclassType, shapes.TypedDictType, shapes.DictType, shapes.AnyType))


def _holds_fields(annotation: Any) -> bool:
    if members := [
        item for item in get_args(annotation) if get_origin(annotation) not in (list, tuple, set, frozenset)
    ]:
        return get_origin(annotation) is dict or any(_holds_fields(member) for member in members)
    return hasattr(annotation, "model_fields") or (isinstance(annotation, type) and _has_fields(annotation))


def _equality_is_complete(item: Any) -> bool:
    cls = cast("type[Any]", get_origin(item) or item)
    if not isinstance(cast(object, cls), type) or not _has_fields(cls):
        return True
    if issubclass(cls, msgspec.Struct):
        return cls.__eq__ is msgspec.Struct.__eq__ and cls.__struct_config__.eq
    if hasattr(cls, "__attrs_attrs__"):
        return False
    if dataclasses.is_dataclass(cls):
        # a dataclass keeps an __eq__ written by hand, which may look at an id only; generated code has no file
        code = getattr(cls.__eq__, "__code__", None)
        generated = code is not None and code.co_filename == "<string>"
        return generated and all(field.compare for field in dataclasses.fields(cls))
    return True


def _encode_subclass(value: Any) -> Any:
    """Let a subclass of str, int, float, list or set be stored as its base. Called for unknown types only."""
    if isinstance(value, str):
        return str.__str__(value)
    for base in (int, float, list, set, frozenset):
        if isinstance(value, base):
            return cast("Callable[[Any], Any]", base)(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
