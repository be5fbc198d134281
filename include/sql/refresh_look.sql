-- Every column that can hold somebody's name, address or number; a partitioned table as one. A refresh's settings are set.
CREATE TEMP TABLE looked_at AS
SELECT format('%s.%s', n.nspname, c.relname) AS "table", a.attname::text AS "column",
  format('%I.%I', n.nspname, c.relname) AS source, t.typname::text AS type, c.reltuples,
  c.relkind = 'p' OR c.reltuples <= current_setting('sebenza.sampled_rows')::real AS whole
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype LEFT JOIN pg_type e ON e.oid = t.typelem
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attgenerated = ''
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND coalesce(b.typname, CASE WHEN t.typcategory = 'A' THEN e.typname END, t.typname) IN ('text', 'varchar', 'bpchar', 'citext',
    'name', 'json', 'jsonb', 'xml', 'hstore', 'int8', 'numeric', 'inet', 'date', 'bytea', 'point', 'tsvector');
