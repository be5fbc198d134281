# database_describe.sh MAJOR_VERSION HOST PORT USER DATABASE: what a database is and holds, as lines of JSON; changes nothing.
# Standard input: the password's line; then the lines of a former description, if any, beyond whose newest rows it counts.
# All numbers are of one snapshot.
IFS= read -r PGPASSWORD || :
PGHOST=$2 PGPORT=$3 PGUSER=$4 PGDATABASE=$5 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-describe
export PGPASSWORD PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
PATH=/usr/lib/postgresql/$1/bin:$PATH
umask 077
DESCRIBED_BEFORE=$(mktemp)
export DESCRIBED_BEFORE
trap 'rm -f "$DESCRIBED_BEFORE"' EXIT
cat >"$DESCRIBED_BEFORE"
psql -X -A -t -q -v ON_ERROR_STOP=1 <<'SQL'
\set before `cat "$DESCRIBED_BEFORE"`
SET lock_timeout = '30s';
-- Rows that a policy hides would not be counted: then it fails.
SET row_security = off;
SET timezone = 'UTC';
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT json_build_object('what', 'database', 'oid', d.oid::bigint, 'at', now(), 'owner', pg_get_userbyid(d.datdba),
  'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
  'tablespace', t.spcname, 'connection_limit', d.datconnlimit, 'size_bytes', pg_database_size(d.oid),
  'settings', (SELECT coalesce(json_agg(x ORDER BY x), '[]') FROM (
    SELECT CASE s.setrole WHEN 0 THEN c ELSE format('%s for role %s', c, pg_get_userbyid(s.setrole)) END AS x
    FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE s.setdatabase = d.oid) settings),
  'grants', (SELECT coalesce(json_agg(x ORDER BY x), '[]') FROM (
    SELECT format('%s to %s%s', a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END,
      CASE WHEN a.is_grantable THEN ' with grant option' ELSE '' END) AS x
    FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a) grants),
  'extensions', (SELECT coalesce(json_agg(extname ORDER BY extname), '[]') FROM pg_extension),
  'slots', (SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]') FROM pg_replication_slots WHERE database = d.datname))
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = current_database();
WITH known AS (
  SELECT l::json AS line FROM unnest(string_to_array(:'before', E'\n')) l WHERE l LIKE '{%'
), found AS (
  SELECT c.oid, n.nspname, c.relname, pg_get_userbyid(c.relowner) AS owner, known.line,
    -- Nothing there before: all rows are new.
    coalesce((known.line ->> 'rows')::bigint, 0) = 0 AS is_new,
    (SELECT coalesce(json_agg(format('%s to %s', a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END)
      ORDER BY a.grantee, a.privilege_type), '[]') FROM aclexplode(c.relacl) a) AS grants,
    (SELECT attname FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
      AND atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype) AND attname ~* '(^|_)(created|inserted)(_|$)'
      ORDER BY attnum LIMIT 1) AS created,
    (SELECT attname FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
      AND atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype) AND attname ~* '(^|_)(updated|modified|changed)(_|$)'
      ORDER BY attnum LIMIT 1) AS updated,
    (SELECT attname FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT attisdropped AND atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
      AND (attidentity <> '' OR pg_get_expr(f.adbin, f.adrelid) LIKE 'nextval(%') ORDER BY a.attnum LIMIT 1) AS number
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN known ON known.line ->> 'what' = 'table' AND known.line ->> 'name' = format('%s.%s', n.nspname, c.relname)
  WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT format($f$SELECT json_build_object('what', 'table', 'name', %L, 'owner', %L, 'grants', %L::json, 'rows', count(*),
    'created', max(%s), 'updated', max(%s), 'number', max(%s), 'by', %L, 'written', %s, 'changed', %s) FROM %I.%I$f$,
  format('%s.%s', nspname, relname), owner, grants::text,
  coalesce(quote_ident(created), 'NULL::timestamptz'), coalesce(quote_ident(updated), 'NULL::timestamptz'), coalesce(quote_ident(number), 'NULL::bigint'),
  CASE WHEN is_new THEN 'all' ELSE coalesce(created, number, '') END,
  CASE WHEN is_new THEN 'count(*)'
    WHEN created IS NOT NULL THEN format('count(*) FILTER (WHERE %I > %L)', created, line ->> 'created')
    WHEN number IS NOT NULL THEN format('count(*) FILTER (WHERE %I > %L)', number, line ->> 'number') ELSE 'NULL::bigint' END,
  CASE WHEN is_new OR updated IS NULL THEN 'NULL::bigint' ELSE format('count(*) FILTER (WHERE %I > %L)', updated, line ->> 'updated') END,
  nspname, relname)
FROM found ORDER BY nspname, relname \gexec
COMMIT;
SQL
