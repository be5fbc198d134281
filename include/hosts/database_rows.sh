# database_rows.sh BIN SOCKET_DIR PORT TIMEOUT_MS [DATABASE]: the rows of every table of every database of a server, or of one, as
# lines of JSON, each database in one snapshot; and its schema's revision where it has the application's. Run as the owner of
# the cluster. Changes nothing.
cd /
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-restore
PGOPTIONS="-c statement_timeout=$4 -c lock_timeout=30s -c default_transaction_read_only=on"
export PGHOST PGPORT PGUSER PGCONNECT_TIMEOUT PGAPPNAME PGOPTIONS
_names=${5:-}
[ -n "$_names" ] || _names=$("$1/psql" -X -A -t -q -v ON_ERROR_STOP=1 -d postgres -c "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")
printf '%s\n' "$_names" | while IFS= read -r PGDATABASE; do
  export PGDATABASE
  "$1/psql" -X -A -t -q -v ON_ERROR_STOP=1 <<'SQL'
-- Rows that a policy hides would not be counted: then it fails.
SET row_security = off;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT json_build_object('what', 'database', 'database', current_database(), 'size_bytes', pg_database_size(current_database()));
SELECT 'SELECT json_build_object(''what'', ''schema'', ''database'', current_database(), ''revision'', (SELECT coalesce(max(number), 0) FROM schema_migrations WHERE finished_at IS NOT NULL))'
WHERE to_regclass('schema_migrations') IS NOT NULL \gexec
SELECT format('SELECT json_build_object(''what'', ''table'', ''database'', current_database(), ''name'', %L, ''rows'', count(*)) FROM ONLY %I.%I',
  format('%s.%s', n.nspname, c.relname), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 \gexec
COMMIT;
SQL
done
