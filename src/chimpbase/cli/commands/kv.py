"""`chimpbase kv`: look at keys, and set and delete them."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from chimpbase import KV, Ctx, errors
from chimpbase._core.durations import parse_duration
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import Output
from chimpbase.cli.failures import FAILURE, CommandFailed
from chimpbase.cli.logs import to_json, visible

_LONGEST = 60

Key = Annotated[str, Parameter(help="The key.")]
Namespace = Annotated[str | None, Parameter(name=("--namespace", "-n"), help="The namespace; else the keys of none.")]
Cache = Annotated[bool, Parameter(negative=(), help="The namespace is one with cache=True.")]


def ls(
    prefix: Annotated[str, Parameter(help="Only keys that begin so, taken literally.")] = "",
    /,
    *,
    namespace: Namespace = None,
    cache: Cache = False,
    namespaces: Annotated[bool, Parameter(negative=(), help="List the namespaces instead.")] = False,
    after: Annotated[str, Parameter(help="Go on after this key.")] = "",
    limit: Annotated[int, Parameter(help="At most so many.")] = 100,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """List keys with their values."""

    async def look(ctx: Ctx) -> list[dict[str, Any]]:
        if namespaces:
            return [{"namespace": name} for name in await ctx.kv.namespaces()]
        entries = await _keys(ctx, namespace, cache).entries(prefix, after=after, limit=limit)
        return [
            {"key": one.key, "value": one.value, "version": one.version, "expires_at": one.expires_at}
            for one in entries
        ]

    found = op.ask(app, look)
    if output == "json":
        print(to_json(found))
        return 0
    head = ("NAMESPACE",) if namespaces else ("KEY", "VALUE", "VERSION", "EXPIRES")
    print(op.table(head, [[_cell(value) for value in row.values()] for row in found]))
    return 0


def get(
    key: Key,
    /,
    *,
    namespace: Namespace = None,
    cache: Cache = False,
    app: op.App = None,
) -> int:
    """Print a value as JSON."""
    entry = op.ask(app, lambda ctx: _keys(ctx, namespace, cache).entry(key))
    if entry is None:
        raise errors.NotFound("key", key)
    print(to_json(entry.value))
    return 0


def put(
    key: Key,
    value: Annotated[str, Parameter(help="The value, as JSON.")],
    /,
    *,
    ttl: Annotated[str | None, Parameter(help="How long it lasts, such as 90s.")] = None,
    if_absent: Annotated[bool, Parameter(negative=(), help="Only where there is none.")] = False,
    if_version: Annotated[int | None, Parameter(help="Only over the value of this version.")] = None,
    namespace: Namespace = None,
    cache: Cache = False,
    app: op.App = None,
) -> int:
    """Set a value. Nothing compares it with the type that code gives to the namespace."""
    read = op.read_json(value)

    async def work(ctx: Ctx) -> int | None:
        lasts = None if ttl is None else parse_duration(ttl, subject="--ttl")
        keys = _keys(ctx, namespace, cache)
        return await keys.set(key, read, ttl=lasts, if_absent=if_absent, if_version=if_version)

    version = op.ask(app, work)
    if version is None:
        raise CommandFailed(f"{key!r} was not set: it has another version, or is there already.", code=FAILURE)
    return op.told(f"set {visible(key)}, version {version}")


def delete(
    key: Key,
    /,
    *,
    namespace: Namespace = None,
    cache: Cache = False,
    app: op.App = None,
) -> int:
    """Delete a key."""
    if not op.ask(app, lambda ctx: _keys(ctx, namespace, cache).delete(key)):
        raise errors.NotFound("key", key)
    return op.told(f"deleted {visible(key)}")


def _keys(ctx: Ctx, namespace: str | None, cache: bool) -> Any:
    return ctx.kv if namespace is None else ctx.kv(KV(namespace, cache=cache))


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else to_json(value)
    text = visible(text.strip('"') if not isinstance(value, str) else text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
