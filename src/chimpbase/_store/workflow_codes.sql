-- What the codes of workflows mentioned: rows of chimpbase.workflow_code.
-- Each statement is run by the function of the same name in workflow_codes.py.

-- name: register
-- Remember codes; none is ever removed here.
insert into chimpbase.workflow_code (hash, names)
select hash, names
from unnest(:hashes::text[], :names::text[]) as spec (hash, names)
order by hash
on conflict do nothing;

-- name: find
-- The names that a code mentioned.
-- Index:  workflow_code_pkey.
select names from chimpbase.workflow_code where hash = :hash;
