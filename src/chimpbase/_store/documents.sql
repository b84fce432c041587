-- Documents of collections, in chimpbase.document.
-- Each statement is run by the function of the same name in documents.py. Where one says /*where*/, /*order*/ or /*value*/,
-- the composer there puts a condition, an order or an expression, made of constants of its own and of $n parameters.

-- name: insert
-- Store documents; their versions, in order. With `forced` each gets its id as a member.
-- Locks:  those ids, until the transaction ends.
insert into chimpbase.document (collection, id, schema, body)
select :collection, new.id, :schema,
  case when :forced or new.body::jsonb ? 'id' then new.body::jsonb || jsonb_build_object('id', new.id)
    else new.body::jsonb end
from unnest(:ids::text[], :bodies::text[]) as new (id, body)
returning id, version, schema, created_at, updated_at;

-- name: add
-- Store a document unless its id, or what must be unique, is there; a row when it was stored.
-- Locks:  that id.
insert into chimpbase.document (collection, id, schema, body)
select :collection, new.id, :schema,
  case when :forced or new.body::jsonb ? 'id' then new.body::jsonb || jsonb_build_object('id', new.id)
    else new.body::jsonb end
from (select :id::text as id, :body::text as body) as new
on conflict do nothing
returning id, version, schema, created_at, updated_at;

-- name: put
-- Store a document in place of the one that has its id, if there is one.
-- Locks:  that document.
insert into chimpbase.document (collection, id, schema, body)
select :collection, new.id, :schema,
  case when :forced or new.body::jsonb ? 'id' then new.body::jsonb || jsonb_build_object('id', new.id)
    else new.body::jsonb end
from (select :id::text as id, :body::text as body) as new
on conflict (collection, id) do update
set body = excluded.body,
    schema = excluded.schema,
    version = nextval('chimpbase.document_version'),
    updated_at = chimpbase.clock()
returning id, version, schema, created_at, updated_at;

-- name: replace
-- Store a document in place of the one that has its id and this version; a row when there was one.
-- Locks:  that document.
update chimpbase.document
set body = case when :forced or (:body::text)::jsonb ? 'id' then (:body::text)::jsonb || jsonb_build_object('id', id)
      else (:body::text)::jsonb end,
    schema = :schema,
    version = nextval('chimpbase.document_version'),
    updated_at = chimpbase.clock()
where collection = :collection
  and id = :id
  and version = :version
returning id, version, schema, created_at, updated_at;

-- name: find
-- A page of documents.
-- Index:  primary key, or a declared one.
select id, version, schema, created_at, updated_at, /*value*/ body::text as body /*keys*/
from chimpbase.document
where collection = :collection
  and /*where*/ true
order by /*order*/ id
limit :max_documents;

-- name: count
-- Index:  primary key, or a declared one.
select count(*)
from chimpbase.document
where collection = :collection
  and /*where*/ true;

-- name: update
-- Change documents where they are; how many.
-- Locks:  those documents, by id, so that two of these never wait for each other in a circle.
with chosen as (
  select id
  from chimpbase.document
  where collection = :collection
    and (:version::bigint is null or version = :version)
    and /*where*/ true
  order by id
  for no key update
)
update chimpbase.document
set body = chimpbase.change(document.body, (:changes::text)::jsonb),
    version = nextval('chimpbase.document_version'),
    updated_at = chimpbase.clock()
from chosen
where document.collection = :collection
  and document.id = chosen.id;

-- name: delete
-- Remove documents; how many.
-- Locks:  those documents, by id.
with chosen as (
  select id
  from chimpbase.document
  where collection = :collection
    and (:version::bigint is null or version = :version)
    and /*where*/ true
  order by id
  for update
)
delete from chimpbase.document
using chosen
where document.collection = :collection
  and document.id = chosen.id;

-- name: list_collections
-- Every collection that holds a document, found without reading the documents.
-- Index:  primary key.
with recursive found as (
  (select collection from chimpbase.document order by collection limit 1)
  union all
  select next.collection
  from found
  cross join lateral (
    select collection from chimpbase.document where collection > found.collection order by collection limit 1
  ) as next
)
select collection
from found
order by collection;
