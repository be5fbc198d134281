-- What was there before, to be looked for afterwards; of documents, every text in them.
DO $remember$
DECLARE
  one record;
  shortest int := current_setting('sebenza.shortest_value');
BEGIN
  FOR one IN SELECT r."column", r.source, (SELECT t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = to_regclass(r.source) AND a.attname = r."column") AS type FROM rules r LOOP
    IF one.type IN ('json', 'jsonb') THEN
      EXECUTE format($q$INSERT INTO originals SELECT DISTINCT s #>> '{}' FROM %s,
        jsonb_path_query(%I::jsonb, 'strict $.** ? (@.type() == "string")') s WHERE length(s #>> '{}') >= $1$q$,
        one.source, one."column") USING shortest;
    ELSE
      EXECUTE format('INSERT INTO originals SELECT DISTINCT %1$I::text FROM %2$s WHERE length(%1$I::text) >= $1',
        one."column", one.source) USING shortest;
    END IF;
  END LOOP;
END $remember$;
INSERT INTO contained SELECT value FROM (SELECT DISTINCT value FROM originals WHERE length(value) >= 8) o
ORDER BY md5(value) LIMIT current_setting('sebenza.contained_values')::int;
ANALYZE originals;
