-- Carried: jobs that are stored together with the end of the job whose handler enqueued them, under ids drawn before.
-- Each statement is run by the function of the same name in carried.py.

-- name: draw
-- Ids for jobs to come, and the queues that have a gate by then. Ids that are never used leave a gap, and nothing else.
select
  (select array_agg(nextval('chimpbase.job_id') order by n) from generate_series(1, :count) n) as ids,
  array(select queue from chimpbase.gate) as gated;

-- name: enqueue
-- Store jobs under ids drawn before.
select chimpbase.enqueue_jobs(
  :queues::int[], :payloads::text[], :delays::interval[], :dues::timestamptz[], :priorities::smallint[],
  :max_attempts::int[], :headers::text[], :keys::text[], :terms::text[], :ids::bigint[]
);
