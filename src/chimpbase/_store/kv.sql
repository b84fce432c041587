-- Key-value pairs, in chimpbase.kv. An expired pair is absent for every statement here, swept or not.
-- Each statement is run by the function of the same name in kv.py.

-- name: get
-- Index:  kv_pkey (namespace, key).
select value
from chimpbase.kv
where namespace = :namespace
  and key = :key
  and (expires_at is null or expires_at > chimpbase.clock());

-- name: set
-- Store a value; its new version. Every set replaces the time to live: none means for ever.
-- Locks:  the pair.
insert into chimpbase.kv (namespace, key, value, expires_at)
values (:namespace, :key, :value, chimpbase.clock() + :ttl::interval)
on conflict (namespace, key) do update
set value = excluded.value,
    expires_at = excluded.expires_at,
    version = kv.version + 1
returning version;

-- name: delete
-- Remove a pair; a row when there was one to see.
-- Locks:  the pair.
delete from chimpbase.kv
where namespace = :namespace
  and key = :key
returning expires_at is null or expires_at > chimpbase.clock() as seen;

-- name: sweep
-- Free the space of up to `max_rows` expired pairs; how many.
-- Locks:  those pairs (skip locked).
with expired as (
  select namespace, key
  from chimpbase.kv
  where expires_at <= chimpbase.clock()
  limit :max_rows
  for update skip locked
)
delete from chimpbase.kv
using expired
where (kv.namespace, kv.key) = (expired.namespace, expired.key);
