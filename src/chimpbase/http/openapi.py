"""OpenAPI: the description of the routes to actions, made from the types of their parameters and results.

Plain routes and mounted applications are not in it: nothing is known of what they take.
"""

from __future__ import annotations

import html
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chimpbase._app.inbound import REQUIRED, Parameter
from chimpbase.http.resource import Deed, Resource

_NO_BODY_STATUS = (204, 205)
_ERROR: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "path": {"type": "string", "description": "The JSON path of what is wrong."},
                "in": {"enum": ["body", "query", "path"]},
                "trace": {"type": "string", "description": "What the log of the server has the reason under."},
            },
        }
    },
}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:52rem;padding:0 1rem}"
    "summary{cursor:pointer;padding:.4rem 0}b{display:inline-block;width:5rem}"
    "pre{background:#8881;padding:.8rem;overflow:auto}:root{color-scheme:light dark}"
)


def description_routes(title: str, resources: Sequence[Resource]) -> list[BaseRoute]:
    """`/openapi.json`, and `/docs` for reading it. Behind all other routes, so that an application may have its own."""
    made: list[dict[str, Any]] = []

    def described() -> dict[str, Any]:
        if not made:
            made.append(describe(title, resources))
        return made[0]

    async def openapi(request: Request) -> Response:
        return Response(msgspec.json.encode(described()), media_type="application/json")

    async def docs(request: Request) -> Response:
        # nothing on this page runs or is fetched, and it may not be framed
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
        return Response(_page(described()), headers={"content-security-policy": policy}, media_type="text/html")

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def describe(title: str, resources: Sequence[Resource]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these paths."""
    schemas = _Schemas()
    used: set[str] = set()
    paths: dict[str, dict[str, Any]] = {}
    for resource in resources:
        for method, deed in resource.deeds.items():
            operation = _operation(deed, schemas, used=used)
            paths.setdefault(deed.route.plain_path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": paths,
        "components": {"schemas": {**schemas.named, "Error": _ERROR}},
    }


class _Schemas:
    """Collects the named types of all schemas in one place. Two types of one name get different names."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def add(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema, with references to where its named types are now."""
        own: dict[str, Any] = dict(schema.get("$defs", {}))
        names = {name: self._name(name, own) for name in own}
        for name, one in own.items():
            self.named[names[name]] = _moved(one, names)
        return cast("dict[str, Any]", _moved({key: one for key, one in schema.items() if key != "$defs"}, names))

    def _name(self, wanted: str, own: Mapping[str, Any]) -> str:
        # with everything it refers to: two types may look the same and differ in a type they hold
        known = json.dumps([wanted, {name: own[name] for name in sorted(_reached(wanted, own))}], sort_keys=True)
        if known not in self._names:
            name, number = wanted, 1
            while name == "Error" or name in self._names.values():
                number += 1
                name = f"{wanted}_{number}"
            self._names[known] = name
        return self._names[known]


def _operation(deed: Deed, schemas: _Schemas, *, used: set[str]) -> dict[str, Any]:
    arguments = deed.arguments
    doc = inspect.getdoc(deed.action.function) or ""
    name, number = deed.action.name, 1
    while name in used:
        number += 1
        name = f"{deed.action.name}_{number}"
    used.add(name)
    operation: dict[str, Any] = {"operationId": name, "summary": doc.partition("\n")[0] or deed.action.name}
    if rest := doc.partition("\n")[2].strip():
        operation["description"] = rest
    parameters = [_parameter(item, "path", schemas) for item in arguments.path]
    if arguments.whole is not None and not arguments.reads_body:
        parameters += _flattened(arguments.whole, schemas)
    if arguments.whole is not None or not arguments.reads_body:
        parameters += [_parameter(item, "query", schemas) for item in arguments.members]
    if parameters:
        operation["parameters"] = parameters
    if arguments.reads_body:
        operation["requestBody"] = _body(deed, schemas)
    operation["responses"] = _responses(deed, schemas)
    return operation


def _parameter(item: Parameter, place: str, schemas: _Schemas) -> dict[str, Any]:
    required = place == "path" or item.default is REQUIRED
    return {"name": item.name, "in": place, "required": required, "schema": schemas.add(item.codec.schema())}


def _flattened(item: Parameter, schemas: _Schemas) -> list[dict[str, Any]]:
    """The members of an object, each as a query parameter."""
    schema = item.codec.schema()
    definitions: dict[str, Any] = schema.get("$defs", {})
    shape: dict[str, Any] = definitions.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    required: Iterable[str] = shape.get("required", ()) if item.default is REQUIRED else ()
    properties: dict[str, Any] = shape.get("properties", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": schemas.add({**one, "$defs": definitions}),
        }
        for name, one in properties.items()
    ]


def _body(deed: Deed, schemas: _Schemas) -> dict[str, Any]:
    arguments = deed.arguments
    if arguments.whole is not None:
        schema, required = schemas.add(arguments.whole.codec.schema()), arguments.needs_body
    else:
        needed = [item.name for item in arguments.members if item.default is REQUIRED]
        properties = {item.name: schemas.add(item.codec.schema()) for item in arguments.members}
        schema, required = {"type": "object", "properties": properties, "required": needed}, bool(needed)
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _responses(deed: Deed, schemas: _Schemas) -> dict[str, Any]:
    returns, status = deed.action.parameters.returns, deed.route.status
    failed = {"$ref": "#/components/schemas/Error"}
    responses: dict[str, Any] = {
        "default": {"description": "It was refused, or it failed.", "content": {"application/json": {"schema": failed}}}
    }
    if returns in (None, type(None)) or status in _NO_BODY_STATUS:
        return {str(status or 204): {"description": "It is done."}, **responses}
    schema = schemas.add(deed.action.parameters.return_codec.schema())
    done = {"description": "It is done.", "content": {"application/json": {"schema": schema}}}
    return {str(status or 200): done, **responses}


def _moved(schema: Any, names: Mapping[str, str]) -> Any:
    """The schema with its references to `$defs` changed to the components of the document."""
    if isinstance(schema, dict):
        items = cast("dict[str, Any]", schema).items()
        return {key: _reference(one, names) if key == "$ref" else _moved(one, names) for key, one in items}
    if isinstance(schema, list):
        return [_moved(one, names) for one in cast("list[Any]", schema)]
    return schema


def _reached(name: str, own: Mapping[str, Any]) -> set[str]:
    """The name, and the names of all types that are reached from it."""
    found, ahead = set[str](), [name]
    while ahead:
        one = ahead.pop()
        if one in own and one not in found:
            found.add(one)
            ahead += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(own[one]))
    return found


def _reference(target: Any, names: Mapping[str, str]) -> Any:
    name = str(target).removeprefix("#/$defs/")
    return f"#/components/schemas/{names.get(name, name)}" if name != target else target


def _page(document: Mapping[str, Any]) -> str:
    title = html.escape(document["info"]["title"])
    head = f"<meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    parts = [f"<!doctype html><html lang=en>{head}<h1>{title}</h1>"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            summary = f"<b>{method.upper()}</b> <code>{html.escape(path)}</code> {html.escape(operation['summary'])}"
            parts.append(f"<details><summary>{summary}</summary><pre>{_shown(operation)}</pre></details>")
    parts.append("<h2>Types</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"<details><summary>{html.escape(name)}</summary><pre>{_shown(schema)}</pre></details>")
    return "\n".join([*parts, "<p><a href=openapi.json>openapi.json</a></html>"])


def _shown(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2, ensure_ascii=False))
