-- phase: expand
-- transaction: none
-- Built beside the running releases. Interrupted, it leaves an invalid index, which the next attempt makes anew.
CREATE INDEX CONCURRENTLY projects_status ON projects (status, created_at DESC);
