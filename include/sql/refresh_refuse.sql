-- Nothing is changed while something personal is not declared, or something declared is not there.
DO $refuse$
DECLARE
  one record;
  why text;
  found text := '';
  missing text;
BEGIN
  IF EXISTS (SELECT FROM pg_largeobject_metadata) THEN
    RAISE EXCEPTION 'there are large objects, which nothing anonymizes: remove them from the source, or dump them apart';
  END IF;
  SELECT string_agg(format('%s.%s', r."table", r."column"), ', ') INTO missing FROM rules r
  WHERE NOT EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(r.source) AND a.attname = r."column" AND NOT a.attisdropped);
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'declared columns are not there: %. Where did they go? Mend policies.refresh.columns', missing;
  END IF;
  FOR one IN SELECT l.* FROM looked_at l
    WHERE NOT EXISTS (SELECT FROM rules r WHERE r."table" = l."table" AND r."column" = l."column")
      AND NOT EXISTS (SELECT FROM harmless h WHERE h."table" = l."table" AND h."column" = l."column")
    ORDER BY 1, 2 LOOP
    why := NULL;
    IF one."column" ~* current_setting('sebenza.personal_name') OR (one."column" ~* '(^|_)name$'
        AND split_part(one."table", '.', 2) ~* current_setting('sebenza.person_table')) THEN
      why := 'by its name';
    ELSIF one.type NOT IN ('date', 'bytea', 'point', 'inet') THEN
      EXECUTE format($q$SELECT CASE WHEN bool_or(v ~ current_setting('sebenza.email')) THEN 'e-mail addresses'
          WHEN bool_or($1 NOT IN ('int8', 'numeric') AND v ~ current_setting('sebenza.phone')) THEN 'phone numbers'
          WHEN bool_or(v ~ current_setting('sebenza.id_number')) THEN 'identity numbers' END
        FROM (SELECT %I::text AS v FROM %s %s) s$q$, one."column", one.source, CASE WHEN one.whole THEN '' ELSE
          format('TABLESAMPLE SYSTEM (%s)', greatest(0.01, 100 * current_setting('sebenza.sampled_rows')::real / one.reltuples)) END)
        INTO why USING one.type;
    END IF;
    IF why IS NOT NULL THEN
      found := found || format('%s%s.%s (%s)', CASE found WHEN '' THEN '' ELSE ', ' END, one."table", one."column", why);
    END IF;
  END LOOP;
  IF found <> '' THEN
    RAISE EXCEPTION 'undeclared columns look personal: %. Declare in policies.refresh how each is anonymized (columns), or '
      'why it is not (not_personal)', found;
  END IF;
END $refuse$;
