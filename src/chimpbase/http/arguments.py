"""Arguments: how the path, the query string and the body of a request become the arguments of an action.

The plan is made once, from the signature. Names of the path fill the parameters of those names. Of the rest, when
exactly one has an object type (a dataclass, a model, a dict), the body is that value, and the others come from the
query string; when none or several have one, the body is an object with a member for each. Methods without a body (GET,
HEAD, DELETE, OPTIONS) read the query string in its place. Text of the URL is converted to the declared type; JSON has
to have it already.

Members and query parameters after which no parameter is named are ignored: an old server and a new client get along.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl

from chimpbase import errors
from chimpbase._app.inbound import REQUIRED, Parameter, Parameters, read_json
from chimpbase.http.answers import Refusal

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

_MOST_QUERY_FIELDS = 1000
_ABSENT = object()

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Arguments:
    """The plan for one action behind one method and path. `in_path` are the names in braces, in order."""

    def __init__(self, parameters: Parameters, *, method: str, path: str, in_path: Sequence[str]) -> None:
        known = [item.name for item in parameters.items]
        for name in in_path:
            if name not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise errors.UsageError(
                    f"The route {method} {path} has {{{name}}} in its path, but {parameters.name} ({parameters.where}) "
                    f"has no parameter of that name; {takes}. Rename one of the two."
                )
        self._items = parameters.items
        self._path = [item for item in parameters.items if item.name in in_path]
        rest = [item for item in parameters.items if item.name not in in_path]
        self._has_body = method in WITH_BODY
        self._whole = _the_object(rest, may_be_anything=self._has_body)
        self._rest = [item for item in rest if item is not self._whole]
        self._lists = {item.name for item in self._rest if _takes_list(item.codec.schema())}
        self._list_members = _list_members(self._whole) if self._whole and not self._has_body else frozenset[str]()

    @property
    def reads_body(self) -> bool:
        """Whether a body can fill anything."""
        return self._has_body and (self._whole is not None or bool(self._rest))

    @property
    def needs_body(self) -> bool:
        """Whether a request without a body can only be refused, whatever its query string says."""
        return self._has_body and self._whole is not None and self._whole.default is REQUIRED

    @property
    def path(self) -> Sequence[Parameter]:
        """The parameters that come from the path."""
        return self._path

    @property
    def whole(self) -> Parameter | None:
        """The parameter that is the whole body, or without one the whole query string."""
        return self._whole

    @property
    def members(self) -> Sequence[Parameter]:
        """The parameters that come one by one."""
        return self._rest

    def fill(self, *, path: Mapping[str, Any], query: bytes, body: bytes | None) -> Call:
        """The arguments of a request. `body` is None when it has none, or none that anybody reads.

        Raises:
            Refusal: 400 when text cannot be parsed, 422 when a value does not fit, with its JSON path.
        """
        taken = {item.name: _converted(item, path[item.name], place="path", lax=True) for item in self._path}
        fields = _fields(query)
        content: Any = _ABSENT if body is None else _parsed(body)
        if self._whole is not None:
            self._take_whole(taken, fields, content)
            content = _ABSENT
        self._take_members(taken, fields, content)
        return self._placed(taken)

    def _take_whole(self, taken: dict[str, Any], fields: Mapping[str, list[str]], content: Any) -> None:
        assert self._whole is not None
        item, place = self._whole, "body"
        if not self._has_body:
            place = "query"
            given = {name: _single(texts, wanted=name in self._list_members) for name, texts in fields.items()}
            content = given if given or item.default is REQUIRED else _ABSENT
        if content is _ABSENT:
            if item.default is REQUIRED:
                raise Refusal(400, "The body is empty; send JSON.", kind="PayloadError", path="$", place="body")
            return
        taken[item.name] = _converted(item, content, place=place, lax=not self._has_body, whole=True)

    def _take_members(self, taken: dict[str, Any], fields: Mapping[str, list[str]], content: Any) -> None:
        members = self._members(content)
        for item in self._rest:
            in_query, in_body = item.name in fields, item.name in members
            if in_query and in_body:
                message = f"`{item.name}` is in the query string and in the body; send it once."
                raise Refusal(422, message, kind="PayloadError", path=f"$.{item.name}", place="body")
            if in_query:
                text = _single(fields[item.name], wanted=item.name in self._lists)
                taken[item.name] = _converted(item, text, place="query", lax=True)
            elif in_body:
                taken[item.name] = _converted(item, members[item.name], place="body", lax=False)
            elif item.default is REQUIRED:
                place = "body" if self._has_body and self._whole is None else "query"
                what = "member" if place == "body" else "query parameter"
                message = f"Missing required {what} `{item.name}`"
                raise Refusal(422, message, kind="PayloadError", path=f"$.{item.name}", place=place)

    def _members(self, content: Any) -> Mapping[str, Any]:
        if content is _ABSENT or (not self._rest):
            return {}
        if isinstance(content, dict):
            return cast("dict[str, Any]", content)
        names = ", ".join(f"`{item.name}`" for item in self._rest)
        message = f"Expected an object with {names}, got `{_json_kind(content)}`"
        raise Refusal(422, message, kind="PayloadError", path="$", place="body")

    def _placed(self, taken: dict[str, Any]) -> Call:
        positional = [item for item in self._items if item.kind is inspect.Parameter.POSITIONAL_ONLY]
        return tuple(taken.pop(item.name, item.default) for item in positional), taken


def _the_object(items: Sequence[Parameter], *, may_be_anything: bool) -> Parameter | None:
    """The one parameter of an object type. Without a body an unannotated one is a query parameter as any other."""
    found = [
        item for item in items if item.codec.is_object and (may_be_anything or item.annotation not in (Any, object))
    ]
    return found[0] if len(found) == 1 else None


def _converted(item: Parameter, value: Any, *, place: str, lax: bool, whole: bool = False) -> Any:
    try:
        return item.codec.convert(value, subject=item.name, lax=lax)
    except errors.PayloadError as error:
        path = error.path if whole else f"$.{item.name}{error.path.removeprefix('$')}"
        raise Refusal(422, error.reason, kind="PayloadError", path=path, place=place) from error


def _parsed(body: bytes) -> Any:
    try:
        return read_json(body)
    except ValueError as error:
        raise Refusal(400, f"The body {error}.", kind="PayloadError", path="$", place="body") from None


def _fields(query: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if not query:
        return found
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_QUERY_FIELDS)
    except UnicodeDecodeError:
        raise Refusal(400, "The query string is not valid UTF-8.", kind="PayloadError", place="query") from None
    except ValueError:
        message = f"The query string has more than {_MOST_QUERY_FIELDS} fields."
        raise Refusal(400, message, kind="PayloadError", place="query") from None
    for name, text in pairs:
        found.setdefault(name, []).append(text)
    return found


def _single(texts: list[str], *, wanted: bool) -> str | list[str]:
    """`?tag=a` is one text, or a list of one where a list is wanted; a list nobody wants is refused by its type."""
    return texts if wanted or len(texts) > 1 else texts[0]


def _takes_list(schema: Mapping[str, Any]) -> bool:
    if schema.get("type") == "array":
        return True
    choices: list[Mapping[str, Any]] = schema.get("anyOf") or []
    return any(_takes_list(choice) for choice in choices)


def _list_members(item: Parameter) -> frozenset[str]:
    schema = item.codec.schema()
    definitions: dict[str, Any] = schema.get("$defs", {})
    reference = str(schema.get("$ref", "")).rpartition("/")[2]
    shape: dict[str, Any] = definitions.get(reference, schema)
    properties: Mapping[str, Any] = shape.get("properties", {})
    return frozenset(name for name, one in properties.items() if _takes_list(one))


def _json_kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "str"
        case _:
            return "array"
