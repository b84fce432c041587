-- Key-value pairs, in chimpbase.kv. An expired pair is absent for every statement here, swept or not.
-- Each statement is run by the function of the same name in kv.py.
-- `cached` chooses the partition: false the durable one, true the unlogged one.

-- name: get
-- The values of many keys, in the order asked; null for those that are absent.
-- Each is looked up by itself (kept apart by `offset 0`): a plan that was made when hardly anything was there would compare
-- each key asked for with every key there is, and be kept.
-- Index:  primary key.
select pair.value
from unnest(:namespaces::text[], :keys::text[]) with ordinality as ask (namespace, key, place)
left join lateral (
  select value
  from chimpbase.kv
  where cached = :cached
    and namespace = ask.namespace
    and key = ask.key
    and (expires_at is null or expires_at > chimpbase.clock())
  offset 0
) as pair on true
order by ask.place;

-- name: find
-- One pair with its version and expiry.
-- Index:  primary key.
select key, version, expires_at, value
from chimpbase.kv
where cached = :cached
  and namespace = :namespace
  and key = :key
  and (expires_at is null or expires_at > chimpbase.clock());

-- name: list_pairs
-- The pairs of a range of keys, by key; `values` false leaves their values out.
-- Index:  primary key.
select key, version, expires_at, case when :values::boolean then value end as value
from chimpbase.kv
where cached = :cached
  and namespace = :namespace
  and key >= :start
  and key > :after
  and key < :stop
  and (expires_at is null or expires_at > chimpbase.clock())
order by key
limit :max_pairs;

-- name: list_namespaces
-- Every namespace that holds a pair, expired or not, found without reading the pairs.
-- Index:  primary key.
with recursive found as (
  (select cached, namespace from chimpbase.kv order by cached, namespace limit 1)
  union all
  select next.cached, next.namespace
  from found
  cross join lateral (
    select cached, namespace
    from chimpbase.kv
    where (cached, namespace) > (found.cached, found.namespace)
    order by cached, namespace
    limit 1
  ) as next
)
select cached, namespace
from found
order by cached, namespace;

-- name: draw
-- Versions for pairs that are overwritten in the same statement that writes them.
select case when :cached::boolean then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end
from generate_series(1, :count);

-- name: set
-- Store values and replace their times to live (null: for ever); the new versions, in order. A key comes once, and the
-- keys are sorted: two such statements then never wait for each other in a circle.
-- Locks:  the pairs.
insert into chimpbase.kv (cached, namespace, key, version, value, expires_at)
select :cached, new.namespace, new.key,
  case when :cached then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end,
  new.value, chimpbase.clock() + new.ttl
from unnest(:namespaces::text[], :keys::text[], :values::text[], :ttls::interval[]) as new (namespace, key, value, ttl)
on conflict (cached, namespace, key) do update
set value = excluded.value,
    expires_at = excluded.expires_at,
    version = case when kv.cached then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end
returning version;

-- name: add
-- Store a value where there is none that has not expired; its version, or no row. It is also how a lock is taken.
-- Locks:  the pair.
insert into chimpbase.kv (cached, namespace, key, version, value, expires_at)
values (
  :cached, :namespace, :key,
  case when :cached then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end,
  :value, chimpbase.clock() + :ttl::interval
)
on conflict (cached, namespace, key) do update
set value = excluded.value,
    expires_at = excluded.expires_at,
    version = case when kv.cached then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end
where kv.expires_at <= chimpbase.clock()
returning version;

-- name: swap
-- Store a value in place of the one that has this version; its new version, or no row.
-- Locks:  the pair.
update chimpbase.kv
set value = :value,
    expires_at = chimpbase.clock() + :ttl::interval,
    version = case when cached then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end
where cached = :cached
  and namespace = :namespace
  and key = :key
  and version = :version
  and (expires_at is null or expires_at > chimpbase.clock())
returning version;

-- name: incr
-- Add to a whole number; the sum, or no row where the value is no whole number or the sum needs more than 64 bits. An
-- absent one counts as 0 and gets the time to live; one that is there keeps its own.
-- Locks:  the pair.
insert into chimpbase.kv (cached, namespace, key, version, value, expires_at)
values (
  :cached, :namespace, :key,
  case when :cached then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end,
  (:by::bigint)::text, chimpbase.clock() + :ttl::interval
)
on conflict (cached, namespace, key) do update
set value = case when kv.expires_at <= chimpbase.clock() then excluded.value else (kv.value::numeric + :by)::text end,
    expires_at = case when kv.expires_at <= chimpbase.clock() then excluded.expires_at else kv.expires_at end,
    version = case when kv.cached then nextval('chimpbase.kv_cache_version') else nextval('chimpbase.kv_version') end
where case
  when kv.expires_at <= chimpbase.clock() then true
  when kv.value ~ '^-?[0-9]{1,19}$'
    then kv.value::numeric + :by between -9223372036854775807 and 9223372036854775807
  else false
end
returning value::bigint;

-- name: spend
-- Spend `cost` (as time) of an allowance that refills evenly over `per`: `expires_at` is when all of it is there again.
-- Whether there was enough, and in how many seconds all of it is there again.
-- Locks:  the pair.
-- Source: the generic cell rate algorithm, ITU-T I.371.
with spent as (
  insert into chimpbase.kv (cached, namespace, key, version, value, expires_at)
  values (true, :namespace, :key, nextval('chimpbase.kv_cache_version'), '1', chimpbase.clock() + :cost::interval)
  on conflict (cached, namespace, key) do update
  set expires_at = greatest(kv.expires_at, chimpbase.clock()) + :cost::interval
  where greatest(kv.expires_at, chimpbase.clock()) + :cost::interval <= chimpbase.clock() + :per::interval
  returning expires_at
)
select exists (select from spent) as allowed,
  greatest(0, extract(epoch from coalesce((select expires_at from spent), before.expires_at, chimpbase.clock())
    - chimpbase.clock()))::float8 as full_in_s
from (select 1) as one
left join chimpbase.kv as before
  on before.cached and before.namespace = :namespace and before.key = :key;

-- name: delete
-- Remove a pair, if it has that version when one is given; a row when there was one to see.
-- Locks:  the pair.
delete from chimpbase.kv
where cached = :cached
  and namespace = :namespace
  and key = :key
  and (:version::bigint is null or version = :version)
returning expires_at is null or expires_at > chimpbase.clock() as seen;

-- name: clear
-- Remove the pairs of a range of keys; how many of them could be seen.
-- Locks:  those pairs.
with gone as (
  delete from chimpbase.kv
  where cached = :cached
    and namespace = :namespace
    and key >= :start
    and key < :stop
  returning expires_at is null or expires_at > chimpbase.clock() as seen
)
select count(*) filter (where seen)
from gone;

-- name: renew
-- Keep a lock that nobody has taken since: a row when it is still this fence's.
-- Locks:  the pair.
update chimpbase.kv
set expires_at = chimpbase.clock() + :ttl::interval
where not cached
  and namespace = :namespace
  and key = :key
  and version = :fence
returning true;

-- name: confirm
-- Hold on to a lock until the end of the transaction: a row when it is still this fence's. Who wants it then waits.
-- Locks:  the pair.
select true
from chimpbase.kv
where not cached
  and namespace = :namespace
  and key = :key
  and version = :fence
for share;

-- name: release
-- Let go of a lock. The row stays for a while, so that the next fence is drawn after this one.
-- Locks:  the pair.
update chimpbase.kv
set expires_at = chimpbase.clock()
where not cached
  and namespace = :namespace
  and key = :key
  and version = :fence
returning true;

-- name: count_blocks
-- How many pages the larger partition has.
select max(pg_relation_size(part) / current_setting('block_size')::int)::bigint
from unnest(array['chimpbase.kv_durable', 'chimpbase.kv_cache']::regclass[]) as part;

-- name: sweep
-- Free the space of the expired pairs in a range of pages; how many. Locks stay for an hour, see `release`.
-- Locks:  those pairs (skip locked).
with expired as (
  select cached, namespace, key
  from chimpbase.kv
  where ctid >= :first
    and ctid < :last
    and expires_at <= chimpbase.clock() - case when namespace like '%(lock)' then interval '1 hour' else interval '0' end
  for update skip locked
)
delete from chimpbase.kv
using expired
where kv.cached = expired.cached
  and kv.namespace = expired.namespace
  and kv.key = expired.key;
