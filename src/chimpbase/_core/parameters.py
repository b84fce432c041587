"""Parameters: what a handler's signature asks for after its context, and how JSON becomes its arguments.

One rule for HTTP bodies, command lines, workflow inputs and stored calls: a handler with exactly one parameter whose
type is an object takes the body as that value; any other takes an object with one member per parameter. Invariant: a
signature is read once, at registration, and every annotation has its codec by then. Absent on purpose: calling the
handler.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, cast, get_type_hints

import msgspec

from chimpbase._core.codec import DEFAULT_LIMIT_BYTES, Codec, codec_for
from chimpbase._core.codec_types import describe_type
from chimpbase._core.errors import PayloadError, UsageError

REQUIRED = inspect.Parameter.empty
Extra = Literal["ignore", "refuse"]

_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a handler. `default` is `REQUIRED` when it has none."""

    name: str
    annotation: Any
    codec: Codec[Any]
    kind: inspect._ParameterKind  # pyright: ignore[reportPrivateUsage]  # the standard library exports no public name
    default: Any = REQUIRED
    #: Its name as that of a member of a JSON object, with the colon.
    prefix: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", f"{msgspec.json.encode(self.name).decode()}:")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one handler after its first `skip`, and the type it returns.

    `where` is "file:line" of the handler; `name` its qualified name. `body` is the parameter that takes the whole body.
    """

    items: tuple[Parameter, ...]
    returns: Any
    name: str
    where: str
    skip: int
    _signature: inspect.Signature
    _body: Parameter | None = field(init=False, repr=False, compare=False)
    _all_placed: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        only = self.items[0] if len(self.items) == 1 else None
        object.__setattr__(self, "_body", only if only and only.codec.is_object else None)
        object.__setattr__(self, "_all_placed", all(item.kind in _PLACED for item in self.items))

    @classmethod
    def from_function(cls, fn: Callable[..., Any], *, skip: int = 1) -> Parameters:
        """Read the signature of `fn`, leaving out its first `skip` parameters (the context).

        Raises: UsageError, with file and line, when a hint cannot be resolved or a type cannot be a payload.
        """
        target = cast("Callable[..., Any]", inspect.unwrap(fn))
        name, where = getattr(target, "__qualname__", type(target).__qualname__), location(target)
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):
            raise UsageError(
                f"{name} has no signature that can be read. Wrap it in a function with annotations."
            ) from None
        hints = _resolved_hints(target, name=name, where=where)
        found = list(signature.parameters.values())
        if len(found) < skip or any(p.kind in _STARRED or p.kind is p.KEYWORD_ONLY for p in found[:skip]):
            raise UsageError(
                f"{name} ({where}) must take the context as its first parameter: `async def {name}(ctx, ...)`."
            )
        items = tuple(_parameter(p, hints.get(p.name, Any), name=name, where=where) for p in found[skip:])
        return cls(items, hints.get("return", Any), name, where, skip, signature)

    @property
    def body(self) -> Parameter | None:
        """The only parameter, when its type is an object: then the body is that value, not an object around it."""
        return self._body

    @property
    def return_codec(self) -> Codec[Any]:
        """The codec of the declared result, Any when none is declared.

        Raises: UsageError when that type cannot be stored.
        """
        try:
            return codec_for(self.returns)
        except UsageError as error:
            raise UsageError(f"The result of {self.name} ({self.where}): {error}") from error

    def from_builtins(
        self, value: Any, *, subject: str, lax: bool = False, extra: Extra = "ignore"
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Turn parsed JSON into `(args, kwargs)`, without the context.

        A list fills several parameters in order; anything that is not an object fills an only parameter. A missing
        parameter keeps the default of its signature. `extra` says what to do with members no parameter is called.

        Raises: PayloadError.
        """
        if body := self.body:
            if value is None and body.default is not REQUIRED:
                return (), {}
            return self._placed({body.name: body.codec.convert(value, subject=subject, lax=lax)})
        given = self._by_name(value, subject=subject)
        self._check_names(given, subject=subject, extra=extra)
        taken: dict[str, Any] = {}
        for item in self.items:
            if item.name in given:
                taken[item.name] = _nested(item, lambda i: i.codec.convert(given[i.name], subject=subject, lax=lax))
        return self._placed(taken)

    def encode(
        self, args: Iterable[Any], kwargs: Mapping[str, Any], *, subject: str, limit_bytes: int = DEFAULT_LIMIT_BYTES
    ) -> str:
        """Return the arguments of a Python call (without the context) as JSON text for storage; `decode` reads it.

        Raises: UsageError when they do not fit the signature, PayloadError when a value does not fit its type.
        """
        bound = self._bound(args, kwargs)
        if body := self.body:
            value = bound.get(body.name, body.default)
            return body.codec.encode(value, subject=subject, limit_bytes=limit_bytes)
        members: list[str] = []
        for item in self.items:
            if item.name in bound:
                try:
                    member = item.codec.encode(bound[item.name], subject=subject, limit_bytes=limit_bytes)
                except PayloadError as error:
                    raise _inside(item, error) from error
                members.append(item.prefix + member)
        text = "{" + ",".join(members) + "}"
        # a character takes four bytes at most
        if len(text) * 4 > limit_bytes and (size := len(text.encode())) > limit_bytes:
            raise PayloadError(f"takes {size:,} bytes as JSON; the limit is {limit_bytes:,}", subject=subject)
        return text

    def decode(self, text: str | bytes, *, subject: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read stored arguments as `(args, kwargs)`, strictly. Members of older code are ignored.

        Raises: PayloadError.
        """
        if body := self.body:
            return self._placed({body.name: body.codec.decode(text, subject=subject)})
        try:
            raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, ValueError):
            # not an object: an only parameter may have been stored bare, by SQL or by name
            return self.from_builtins(codec_for(Any).decode(text, subject=subject), subject=subject)
        self._check_names(raw, subject=subject, extra="ignore")
        taken = {
            item.name: _nested(item, lambda i: i.codec.decode(bytes(raw[i.name]), subject=subject))
            for item in self.items
            if item.name in raw
        }
        return self._placed(taken)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the body these parameters take."""
        if body := self.body:
            return body.codec.schema()
        required = [item.name for item in self.items if item.default is REQUIRED]
        properties = {item.name: item.codec.schema() for item in self.items}
        return _hoisted({"type": "object", "properties": properties, "required": required})

    def _bound(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        by_place = tuple(args)
        if self._all_placed and not kwargs and len(by_place) == len(self.items):
            return {item.name: value for item, value in zip(self.items, by_place, strict=True)}
        try:
            bound = self._signature.bind(*[None] * self.skip, *by_place, **kwargs)
        except TypeError as error:
            raise UsageError(f"{self.name} ({self.where}) cannot be called like this: {error}.") from None
        return dict(bound.arguments)

    def _by_name(self, value: Any, *, subject: str) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return cast("Mapping[str, Any]", value)
        if value is None and all(item.default is not REQUIRED for item in self.items):
            return {}
        if len(self.items) == 1:
            return {self.items[0].name: value}
        names = ", ".join(item.name for item in self.items) or "none"
        if isinstance(value, (list, tuple)) and len(cast("list[Any]", value)) <= len(self.items):
            return dict(zip((item.name for item in self.items), cast("list[Any]", value), strict=False))
        kind = "an array of another length" if isinstance(value, (list, tuple)) else f"`{type(value).__name__}`"
        raise PayloadError(
            f"Expected an object with the parameters of {self.name} ({names}), got {kind}", subject=subject
        )

    def _check_names(self, given: Mapping[str, Any], *, subject: str, extra: Extra) -> None:
        names = [item.name for item in self.items]
        unknown = [str(key) for key in given if key not in names]
        for item in self.items:
            if item.default is REQUIRED and item.name not in given:
                close = get_close_matches(item.name, unknown, n=1)
                hint = f"; got `{close[0]}`, is that what you meant?" if close else ""
                raise PayloadError(f"Object missing required parameter `{item.name}`{hint}", subject=subject)
        if unknown and extra == "refuse":
            close = get_close_matches(unknown[0], names, n=1, cutoff=0.5)
            hint = f"did you mean `{close[0]}`?" if close else f"it takes {', '.join(names) or 'none'}"
            raise PayloadError(f"{self.name} has no parameter `{unknown[0]:.60}`; {hint}", subject=subject)

    def _placed(self, taken: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for item in self.items:
            if item.kind is inspect.Parameter.POSITIONAL_ONLY:
                args.append(taken.get(item.name, item.default))
            elif item.name in taken:
                kwargs[item.name] = taken[item.name]
        return tuple(args), kwargs


def location(fn: Callable[..., Any]) -> str:
    """Return "file:line" of a function, or "unknown place"."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "unknown place"


def _resolved_hints(target: Callable[..., Any], *, name: str, where: str) -> dict[str, Any]:
    while isinstance(target, functools.partial):
        target = cast("functools.partial[Any]", target).func
    function = target if hasattr(target, "__code__") else getattr(target, "__call__", target)  # noqa: B004
    # a type defined inside the function that encloses the handler is in reach only when the handler also uses it
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    enclosing: dict[str, Any] = {}
    for variable, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
        try:
            enclosing[variable] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    try:
        return get_type_hints(function, localns=enclosing or None, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"{name} ({where}) has a type hint that cannot be resolved: {error}. "
            "Define or import that type at module level, outside `if TYPE_CHECKING`."
        ) from None
    except (TypeError, AttributeError, SyntaxError) as error:
        raise UsageError(
            f"{name} ({where}) has a type hint that cannot be read: {error}. Correct the annotation."
        ) from None


def _parameter(found: inspect.Parameter, annotation: Any, *, name: str, where: str) -> Parameter:
    if found.kind in _STARRED:
        raise UsageError(f"{name} ({where}) takes `{found}`; a handler's parameters need names. Name each one.")
    try:
        codec = codec_for(annotation)
    except UsageError as error:
        raise UsageError(
            f"Parameter `{found.name}: {describe_type(annotation)}` of {name} ({where}): {error}"
        ) from error
    return Parameter(found.name, annotation, codec, found.kind, found.default)


def _nested(item: Parameter, work: Callable[[Parameter], Any]) -> Any:
    """Run `work` and put the parameter's name in front of the path of its PayloadError."""
    try:
        return work(item)
    except PayloadError as error:
        raise _inside(item, error) from error


def _inside(item: Parameter, error: PayloadError) -> PayloadError:
    path = f"$.{item.name}{error.path.removeprefix('$')}"
    return PayloadError(error.reason, path=path, subject=error.subject)


def _hoisted(schema: dict[str, Any]) -> dict[str, Any]:
    """Move `$defs` of the properties to the top, where their references point."""
    definitions: dict[str, Any] = {}
    for part in schema["properties"].values():
        definitions |= part.pop("$defs", {})
    return {**schema, "$defs": definitions} if definitions else schema
