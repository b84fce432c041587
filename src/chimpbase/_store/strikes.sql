-- Strikes: which jobs of a queue are held, by what their payload contains, in chimpbase.strike.
-- Each statement is run by the function of the same name in strikes.py.

-- name: put
-- Hold the jobs of a queue whose payload contains `filter`; the strike's id.
-- Locks:  the queue's row.
select chimpbase.put_strike(:queue, :filter::text::jsonb, :reason, :by);

-- name: lift
-- Hold them no more; the queue, null when there is no such strike.
-- Locks:  the queue's row.
select chimpbase.lift_strike(:strike);

-- name: list_strikes
-- Every strike, oldest first.
select strike.id, queue.name as queue, strike.filter::text, strike.reason, strike.created_by, strike.created_at
from chimpbase.strike
join chimpbase.queue on queue.id = strike.queue
order by strike.id;

-- name: sweep
-- Move struck jobs aside and freed ones back, `span` of each place from the id `after`.
-- Locks:  those jobs (skip locked).
-- Touches: chimpbase.job, job_wait, job_later.
select moved, next from chimpbase.sweep_strikes(:span, :after);
