-- Indexes of collections, in chimpbase.document_index and in the catalog.
-- Each statement is run by the function of the same name in document_indexes.py.

-- name: list_indexes
-- The indexes declared for a collection, and whether each is there and complete.
select wanted.name, wanted.spec::text as spec, coalesce(pg_index.indisvalid, false) as valid,
  pg_index.indexrelid is not null as present
from chimpbase.document_index as wanted
left join (
  pg_index join pg_class on pg_class.oid = pg_index.indexrelid and pg_class.relnamespace = 'chimpbase'::regnamespace
) on pg_class.relname = wanted.name
where wanted.collection = :collection
order by wanted.created_at, wanted.name;

-- name: note_index
insert into chimpbase.document_index (name, collection, spec)
values (:name, :collection, (:spec::text)::jsonb)
on conflict (name) do nothing;

-- name: forget_index
delete from chimpbase.document_index
where name = :name
  and collection = :collection
returning true;

-- name: spell_index
-- The statement that creates an index over fields; PostgreSQL quotes what is in it.
select format(
  'create %sindex concurrently if not exists %I on chimpbase.document (%s%s) where collection = %L%s',
  case when :unique::boolean then 'unique ' else '' end,
  :name::text,
  string_agg(
    format(
      'chimpbase.rank_of(body #> %1$L::text[]), chimpbase.number_of(body #> %1$L::text[]), '
      '(chimpbase.text_of(body #> %1$L::text[]) collate "C")',
      field.path
    ),
    ', ' order by field.place
  ),
  case when :unique then '' else ', id' end,
  :collection::text,
  case when :unique then string_agg(format(' and chimpbase.rank_of(body #> %L::text[]) >= 0', field.path), '') else '' end
)
from (
  select place, array(select jsonb_array_elements_text(path))::text as path
  from jsonb_array_elements((:paths::text)::jsonb) with ordinality as given (path, place)
) as field;

-- name: spell_search
-- The statement that creates an index over the words of some fields.
select format(
  'create index concurrently if not exists %I on chimpbase.document using gin '
  '(to_tsvector(%L::regconfig, chimpbase.pick(body, %L::jsonb))) where collection = %L',
  :name::text, :language::text, :paths::text, :collection::text
);

-- name: spell_drop
-- The statement that drops an index.
select format('drop index concurrently if exists chimpbase.%I', :name::text);
