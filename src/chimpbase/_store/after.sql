-- Dependencies, in chimpbase.job_after. Jobs that end let go of what needs them in the same statement; here is the rest.
-- Each statement is run by the function of the same name in after.py.

-- name: close
-- Let the job that follows a batch run when the last member has ended; or, if `given_up`, take it away.
-- Locks:  that job.
select chimpbase.close_batch(:job, :given_up);

-- name: resolve_missed
-- Let go of what needs jobs that ended unseen, among up to `most` after `since`; the last one looked at, or null.
-- Locks:  the jobs that are let go.
-- Index:  job_after_pkey (needs, job).
select chimpbase.resolve_missed(:since, :most);
