"""`chimpbase collection`: look at documents, store and delete them, and see to their indexes."""

from __future__ import annotations

from typing import Annotated, Any, cast

from cyclopts import Parameter

from chimpbase import Ctx, errors
from chimpbase.cli.commands import operating as op
from chimpbase.cli.commands.options import Output
from chimpbase.cli.failures import USAGE, CommandFailed
from chimpbase.cli.logs import to_json, visible

_LONGEST = 100

Name = Annotated[str, Parameter(help="The collection's name.")]
Id = Annotated[str, Parameter(help="The document's id.")]
Where = Annotated[str, Parameter(help='A filter as JSON, such as \'{"age": {"gte": 18}}\'.')]


def ls(*, app: op.App = None, output: Output = "table") -> int:
    """List collections and count their documents."""

    async def look(ctx: Ctx) -> list[dict[str, Any]]:
        return [
            {"name": name, "documents": await ctx.collection(name).count()} for name in await ctx.collection.names()
        ]

    found = op.ask(app, look)
    if output == "json":
        print(to_json(found))
        return 0
    print(op.table(("NAME", "DOCUMENTS"), [(one["name"], str(one["documents"])) for one in found]))
    return 0


def get(collection: Name, id: Id, /, *, app: op.App = None) -> int:
    """Print a document as JSON."""
    found = op.ask(app, lambda ctx: ctx.collection(collection).get(id))
    if found is None:
        raise errors.NotFound("document", id)
    print(to_json(found.value))
    return 0


def find(
    collection: Name,
    where: Where = "{}",
    /,
    *,
    sort: Annotated[str | None, Parameter(help="Fields, with - in front for descending: --sort=-age,city.")] = None,
    fields: Annotated[str | None, Parameter(help="Only these fields: name,address.city.")] = None,
    limit: Annotated[int, Parameter(help="At most so many, up to 1,000.")] = 100,
    after: Annotated[str | None, Parameter(help="Go on where a page ended, with the cursor it printed.")] = None,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """Find documents by a filter."""
    condition = _filter(where)
    chosen: Any = None if fields is None else fields.split(",")

    async def look(ctx: Ctx) -> Any:
        return await ctx.collection(collection).find(
            condition, sort=sort.split(",") if sort else [], fields=chosen, limit=limit, after=after
        )

    page = op.ask(app, look)
    if output == "json":
        documents = [{"id": one.id, "version": one.version, "value": one.value} for one in page]
        print(to_json({"documents": documents, "next": page.next}))
        return 0
    print(op.table(("ID", "VERSION", "DOCUMENT"), [(one.id, str(one.version), _short(one.value)) for one in page]))
    if page.next is not None:
        op.warn(f"more: --after {page.next}")
    return 0


def put(
    collection: Name,
    document: Annotated[str, Parameter(help="The document, as JSON.")],
    /,
    *,
    id: Annotated[str | None, Parameter(help="Its id; else its member id, else a new one.")] = None,
    if_version: Annotated[int | None, Parameter(help="Only over this version.")] = None,
    app: op.App = None,
) -> int:
    """Store a document, over the one of its id. Nothing compares it with the type that code gives to the collection."""
    value = op.read_json(document)
    if not isinstance(value, dict):
        raise CommandFailed("A document is a JSON object.", code=USAGE)
    documented = cast("dict[str, Any]", value)
    own: Any = id if id is not None else documented.get("id")

    async def work(ctx: Ctx) -> str:
        documents = ctx.collection(collection)
        stored = (
            await documents.insert(documented)
            if own is None
            else await documents.put(own, documented, if_version=if_version)
        )
        return stored.id

    print(op.ask(app, work))
    return 0


def delete(
    collection: Name,
    where: Annotated[str, Parameter(help="An id, or a filter as JSON.")],
    /,
    *,
    yes: op.Yes = False,
    app: op.App = None,
) -> int:
    """Delete one document by its id, or many by a filter."""
    condition: Any = where
    if where.lstrip().startswith("{"):
        condition = _filter(where)
        op.permit(f"Deleting documents of {visible(collection)}", filter={"where": where}, everything=True, yes=yes)
    count = op.ask(app, lambda ctx: ctx.collection(collection).delete(condition))
    if not count and isinstance(condition, str):
        raise errors.NotFound("document", where)
    return op.told(f"deleted {count}")


def indexes(
    collection: Name,
    /,
    *,
    drop: Annotated[str | None, Parameter(help="Drop the index of this name.")] = None,
    app: op.App = None,
    output: Output = "table",
) -> int:
    """List the indexes of a collection, or drop one. Those that code declares are made when the app starts."""
    if drop is not None:
        if not op.ask(app, lambda ctx: ctx.collection(collection).drop_index(drop), transaction=False):
            raise errors.NotFound("index", drop)
        return op.told(f"dropped {visible(drop)}")
    found = op.ask(app, lambda ctx: ctx.collection(collection).indexes())
    if output == "json":
        shown = ("name", "fields", "unique", "search", "ready")
        print(to_json([{name: getattr(one, name) for name in shown} for one in found]))
        return 0
    rows = [
        (
            one.name,
            ", ".join(one.fields),
            "words" if one.search else "unique" if one.unique else "",
            "ready" if one.ready else "missing",
        )
        for one in found
    ]
    print(op.table(("NAME", "FIELDS", "KIND", "STATE"), rows))
    return 0


def _filter(text: str) -> dict[str, Any]:
    read = op.read_json(text)
    if not isinstance(read, dict):
        raise CommandFailed("A filter is a JSON object.", code=USAGE)
    return read  # pyright: ignore[reportUnknownVariableType]


def _short(value: object) -> str:
    text = visible(to_json(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
