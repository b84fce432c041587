-- Collections: JSON documents by name and id, and the functions by which they are compared, picked apart and changed.

-- A version is never given twice, not even to a document that was deleted and inserted again.
create sequence chimpbase.document_version as bigint;

-- Declared indexes are partial, one collection each: they are made at run time and are not part of the schema.
create table chimpbase.document (
  collection    text collate "C" not null,
  id            text collate "C" not null,
  version       bigint not null default nextval('chimpbase.document_version'),
  schema        int not null default 1,
  created_at    timestamptz not null default chimpbase.clock(),
  updated_at    timestamptz not null default chimpbase.clock(),
  body          jsonb not null check (jsonb_typeof(body) = 'object'),
  primary key (collection, id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0);

-- The declared indexes that are to exist, by the name of each in the catalog of PostgreSQL.
create table chimpbase.document_index (
  name          text primary key,
  collection    text not null,
  spec          jsonb not null,
  created_at    timestamptz not null default chimpbase.clock()
);

-- Any JSON value has a place in one total order: nothing and null, booleans, numbers, texts by their bytes, lists, objects.
-- The place is (rank, number, text), none of which is ever null, whatever the database's own collation is.
create function chimpbase.rank_of(value jsonb) returns smallint
language sql immutable parallel safe
as $$
  select case jsonb_typeof(value)
    when 'boolean' then 1 when 'number' then 2 when 'string' then 3 when 'array' then 4 when 'object' then 5 else -1
  end::smallint
$$;

create function chimpbase.number_of(value jsonb) returns numeric
language sql immutable parallel safe
as $$
  select case jsonb_typeof(value) when 'number' then value::numeric when 'boolean' then value::boolean::int else 0 end
$$;

create function chimpbase.text_of(value jsonb) returns text
language sql immutable parallel safe
as $$
  select case when jsonb_typeof(value) in ('string', 'array', 'object') then value #>> '{}' else '' end
$$;

-- Put a value at a path, making the objects on the way.
create function chimpbase.put_at(target jsonb, path text[], value jsonb) returns jsonb
language plpgsql immutable parallel safe
as $$
declare
  inner_value jsonb;
begin
  if cardinality(path) = 0 then
    return value;
  end if;
  if target is null then
    target := '{}';
  end if;
  if jsonb_typeof(target) not in ('object', 'array') then
    raise exception using errcode = 'CB020',
      message = format('a %s has no member %L', jsonb_typeof(target), path[1]);
  end if;
  inner_value := target #> path[1:1];
  if jsonb_typeof(target) = 'array' and inner_value is null then
    raise exception using errcode = 'CB020', message = format('the list has no element %L', path[1]);
  end if;
  return jsonb_set(target, path[1:1], chimpbase.put_at(inner_value, path[2:], value), true);
end
$$;

-- The members of a document at some paths, in objects as deep as the paths; what is not there is left out.
-- Its cost is far above that of a comparison, and the planner should not call it for every document of a collection.
create function chimpbase.pick(body jsonb, paths jsonb) returns jsonb
language plpgsql immutable parallel safe cost 1000
as $$
declare
  picked jsonb := '{}';
  one jsonb;
  path text[];
  deep int;
begin
  for one in select * from jsonb_array_elements(paths) loop
    path := array(select jsonb_array_elements_text(one));
    if body #> path is not null then
      -- a list on the way is taken whole: its elements have no place without it
      for deep in 1 .. cardinality(path) loop
        if deep = cardinality(path) or jsonb_typeof(body #> path[1:deep]) = 'array' then
          picked := chimpbase.put_at(picked, path[1:deep], body #> path[1:deep]);
          exit;
        end if;
      end loop;
    end if;
  end loop;
  return picked;
end
$$;

-- Apply changes, each [verb, path, value], one after another.
create function chimpbase.change(body jsonb, changes jsonb) returns jsonb
language plpgsql immutable parallel safe
as $$
declare
  one jsonb;
  path text[];
  value jsonb;
  old jsonb;
  total numeric;
begin
  for one in select * from jsonb_array_elements(changes) loop
    path := array(select jsonb_array_elements_text(one -> 1));
    value := one -> 2;
    old := body #> path;
    case one ->> 0
      when 'merge' then
        body := body || value;
      when 'set' then
        body := chimpbase.put_at(body, path, value);
      when 'unset' then
        body := body #- path;
      when 'inc' then
        if old is not null and jsonb_typeof(old) <> 'number' then
          raise exception using errcode = 'CB020', message = format('inc: a %s is no number', jsonb_typeof(old));
        end if;
        total := coalesce(old::numeric, 0) + value::numeric;
        if abs(total) > 9223372036854775807 and scale(total) = 0 and scale(old::numeric) = 0 then
          raise exception using errcode = 'CB020', message = 'inc: the sum does not fit 64 bits';
        end if;
        body := chimpbase.put_at(body, path, to_jsonb(total));
      when 'push' then
        if old is not null and jsonb_typeof(old) <> 'array' then
          raise exception using errcode = 'CB020', message = format('push: a %s is no list', jsonb_typeof(old));
        end if;
        body := chimpbase.put_at(body, path, coalesce(old, '[]') || jsonb_build_array(value));
      when 'pull' then
        if jsonb_typeof(old) = 'array' then
          body := chimpbase.put_at(body, path, coalesce(
            (select jsonb_agg(e order by n) from jsonb_array_elements(old) with ordinality as x (e, n) where e <> value),
            '[]'));
        end if;
      else
        raise exception using errcode = 'CB002', message = format('no change %L', one ->> 0);
    end case;
  end loop;
  return body;
end
$$;
