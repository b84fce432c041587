"""Dump: the `chimpbase` schema as the catalogs tell it, in one text that a reviewer can read.

Invariant: the text depends on the shape alone: the same on every PostgreSQL from 14 on, whatever order the migrations
made things in. Absent: rows, grants, and the partitions that come and go by day (only the default one is shape).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from chimpbase._pg.connection import Connection, Row
from chimpbase._pg.db import Db

_HEADER: Final = """\
-- The schema after all migrations. `make schema` writes this file and a test compares it: read it, never edit it.
"""

_ENUMS: Final = """
select format('create type %s as enum (%s);', t.oid::regtype,
  string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder)) as text
from pg_type t join pg_enum e on e.enumtypid = t.oid
where t.typnamespace = 'chimpbase'::regnamespace
group by t.oid
order by t.typname collate "C"
"""

_SEQUENCES: Final = """
select format('create sequence %s as %s%s%s;', c.oid::regclass, s.seqtypid::regtype,
  case when s.seqincrement <> 1 then ' increment ' || s.seqincrement else '' end,
  case when s.seqcache <> 1 then ' cache ' || s.seqcache else '' end) as text
from pg_class c join pg_sequence s on s.seqrelid = c.oid
where c.relnamespace = 'chimpbase'::regnamespace
  and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i')
order by c.relname collate "C"
"""

_TABLES: Final = """
select c.oid::regclass::text as name,
  case c.relpersistence when 'u' then 'unlogged ' else '' end as persistence,
  pg_get_partkeydef(c.oid) as partition_key,
  (select i.inhparent::regclass::text from pg_inherits i where i.inhrelid = c.oid) as parent,
  array_to_string(c.reloptions, E',\\n  ') as options
from pg_class c
where c.relnamespace = 'chimpbase'::regnamespace
  and c.relkind in ('r', 'p')
  and (not c.relispartition or pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT')
order by c.relname collate "C"
"""

_COLUMNS: Final = """
select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as filled,
  case a.attidentity when 'a' then 'always' when 'd' then 'by default' end as identity,
  a.attgenerated <> '' as generated, pg_get_expr(d.adbin, d.adrelid) as value
from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""

# Not-null constraints are rows of pg_constraint since PostgreSQL 18; the columns say them already.
_CONSTRAINTS: Final = """
select format('constraint %I %s', conname, pg_get_constraintdef(oid)) as text
from pg_constraint
where conrelid = $1::text::regclass and contype in ('c', 'f', 'p', 'u', 'x') and conislocal
order by array_position(array['p', 'u', 'x', 'f', 'c'], contype::text), conname collate "C"
"""

_INDEXES: Final = """
select pg_get_indexdef(i.indexrelid) || ';' as text
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = $1::text::regclass
  and not c.relispartition
  and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.conrelid = i.indrelid)
order by c.relname collate "C"
"""

_COMMENTS: Final = """
select case when a.attname is null then format('comment on table %s is %L;', d.objoid::regclass, d.description)
  else format('comment on column %s.%I is %L;', d.objoid::regclass, a.attname, d.description) end as text
from pg_description d left join pg_attribute a on a.attrelid = d.objoid and a.attnum = d.objsubid and d.objsubid > 0
where d.classoid = 'pg_class'::regclass and d.objoid = $1::text::regclass
order by d.objsubid
"""

_TRIGGERS: Final = """
select pg_get_triggerdef(oid) || ';' as text
from pg_trigger
where tgrelid = $1::text::regclass and not tgisinternal
order by tgname collate "C"
"""

_VIEWS: Final = """
select format(E'create view %s as\\n%s', oid::regclass, pg_get_viewdef(oid)) as text
from pg_class
where relnamespace = 'chimpbase'::regnamespace and relkind = 'v'
order by relname collate "C"
"""

_FUNCTIONS: Final = """
select trim(E'\\n' from pg_get_functiondef(p.oid)) || ';' as text
from pg_proc p
where p.pronamespace = 'chimpbase'::regnamespace and p.prokind in ('f', 'p')
order by p.proname collate "C", pg_get_function_identity_arguments(p.oid) collate "C"
"""


async def dump(db: Db) -> str:
    """The text of `schema.sql` for a database."""
    async with db.transaction() as conn:
        # Names come out qualified exactly when they are not on the path.
        await conn.execute("select set_config('search_path', '', true), set_config('timezone', 'UTC', true)")
        sections = [
            await _texts(conn, _ENUMS),
            await _texts(conn, _SEQUENCES),
            [await _table(conn, table) for table in await conn.fetch(_TABLES)],
            await _texts(conn, _VIEWS),
            await _texts(conn, _FUNCTIONS),
        ]
    return "\n".join([_HEADER, *(f"{text}\n" for section in sections for text in section)])


async def _texts(conn: Connection, sql: str, *args: str) -> list[str]:
    return [str(row["text"]) for row in await conn.fetch(sql, *args)]


async def _table(conn: Connection, table: Row) -> str:
    """A table with everything that hangs on it, as statements."""
    name = str(table["name"])
    head = f"create {table['persistence']}table {name}"
    options = f" with (\n  {table['options']}\n)" if table["options"] else ""
    if table["parent"]:
        lines = [f"{head} partition of {table['parent']} default{options};"]
    else:
        key = f" partition by {str(table['partition_key']).lower()}" if table["partition_key"] else ""
        body = [*_columns(await conn.fetch(_COLUMNS, name)), *await _texts(conn, _CONSTRAINTS, name)]
        lines = [f"{head} (\n{_indented(body)}\n){key}{options};"]
    for sql in (_INDEXES, _TRIGGERS, _COMMENTS):
        lines += await _texts(conn, sql, name)
    return "\n".join(lines)


def _columns(columns: Sequence[Row]) -> Iterable[str]:
    for column in columns:
        words = [str(column["name"]), str(column["type"])]
        if column["filled"]:
            words.append("not null")
        if column["identity"]:
            words.append(f"generated {column['identity']} as identity")
        elif column["generated"]:
            words.append(f"generated always as ({column['value']}) stored")
        elif column["value"] is not None:
            words.append(f"default {column['value']}")
        yield " ".join(words)


def _indented(lines: Iterable[str]) -> str:
    return ",\n".join(f"  {line}" for line in lines)
