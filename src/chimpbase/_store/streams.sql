-- Streams and their entries, in chimpbase.stream and chimpbase.entry.
-- Each statement is run by the function of the same name in streams.py.

-- name: declare
-- Make a stream known, with what is kept of it: by age, by size, or for ever.
select chimpbase.retain_stream(:name, :retention, :max_bytes);

-- name: begin_epoch
-- The epoch of this cluster, begun when the database has come from another one.
select chimpbase.current_epoch();

-- name: append
-- Append entries, unless the stream is at another version than the expected one.
select ids, number, at_version from chimpbase.append_entries(:stream, :payloads, :keys, :headers, :expected);

-- name: append_each
-- Append entries to streams at whatever version, one after another; each one's id and stream, in order.
-- Locks:  the streams that were ever appended to with an expected version; their names are sorted.
select appended.ids[1], appended.number
from unnest(:streams::text[], :payloads::text[], :keys::text[], :headers::text[]) with ordinality
  as new (stream, payload, key, headers, place)
cross join lateral chimpbase.append_entries(new.stream, array[new.payload], array[new.key], new.headers, null) as appended
order by new.place;

-- name: find
-- Index:  stream_name_key.
select id, shelf, horizon, version
from chimpbase.stream
where name = :name;

-- name: count
-- How many entries a stream has.
-- Index:  entry_stream.
select count(*)
from chimpbase.entry
where stream = :stream
  and shelf = any (array[0, :shelf]);

-- name: page
-- Read on in one partition of a stream. The last row has no id; it tells of the window.
select era, window_end, horizon, top, id, version, key, payload, appended_at, headers
from chimpbase.read_entries(
  :stream, :shelf, :prev_epoch, :prev::text::pg_snapshot, :cur_epoch, :cur::text::pg_snapshot, :floor, :last, :since,
  :partitions, :part, :max_entries);

-- name: page_back
-- Entries that `cur` shows, latest id first, below `before`. The last row has no id; it tells of the window.
select era, window_end, horizon, top, id, version, key, payload, appended_at, headers
from chimpbase.read_entries_back(:stream, :shelf, :cur_epoch, :cur::text::pg_snapshot, :before, :since, :max_entries);

-- name: list_all
-- Every stream: name, kept for, kept bytes, version, highest dropped id, latest id, when it was appended.
select stream.name, retention, max_bytes, stream.version, horizon, latest.id as last_id, latest.appended_at
from chimpbase.stream
left join lateral (
  select id, appended_at
  from chimpbase.entry
  where entry.stream = stream.id
    and entry.shelf = any (array[0, stream.shelf])
  order by id desc
  limit 1
) as latest on true
order by stream.name;

-- name: list_kept
-- Today, and the streams with a retention: number, the first day to keep, the bytes to keep.
select
  (chimpbase.clock() at time zone 'UTC')::date as today, stream.id,
  ((chimpbase.clock() - retention) at time zone 'UTC')::date as first_day, max_bytes
from (select 1) as always
left join chimpbase.stream on shelf > 0;

-- name: list_days
-- The days of a stream's shelf, and how many bytes each takes.
select to_date(right(child.relname, 8), 'YYYYMMDD') as day, pg_total_relation_size(child.oid) as size
from pg_catalog.pg_inherits
join pg_catalog.pg_class as child on child.oid = inhrelid
where inhparent = to_regclass('chimpbase.entry_' || :stream::int)
  and child.relname ~ '^entry_[0-9]+_[0-9]{8}$'
order by child.relname;

-- name: create_day
-- Make one day of a stream's shelf; nothing happens when it is there.
select chimpbase.create_stream_day(:stream, :day);

-- name: drop_day
-- Drop one day of a stream's shelf with all its entries, and note how far they are gone.
select chimpbase.drop_stream_day(:stream, :day);
