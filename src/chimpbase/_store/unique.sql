-- Names of unique jobs, in chimpbase.job_unique. They are taken by functions of the schema; here they are swept.
-- Each statement is run by the function of the same name in unique.py.

-- name: sweep
-- Look at up to `max_rows` names after (queue, name) and delete those that say nothing more: their time is over, or they
-- have none and nothing is left of their job. The last one looked at; no row when there was none.
-- Locks:  those names (skip locked): somebody may be taking one at this moment.
-- Index:  job_unique_pkey (queue, name).
-- Touches: chimpbase.job and its sisters, through chimpbase.job_state.
with page as (
  select queue, name, job, until
  from chimpbase.job_unique
  where (queue, name) > (:queue, :name)
  order by queue, name
  limit :max_rows
  for update skip locked
),
gone as (
  delete from chimpbase.job_unique
  using page
  where job_unique.queue = page.queue
    and job_unique.name = page.name
    and case when page.until is null then chimpbase.job_state(page.job) is null else page.until <= chimpbase.clock() end
)
select queue, name
from page
order by queue desc, name desc
limit 1;
