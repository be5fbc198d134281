# restore_start.sh WORK_DIR RUN MAJOR_VERSION HOST PORT USER DATABASE RESTORED SHA256 SIZE_BYTES TIMEOUT_SECONDS [foreign]
# Standard input: the password, the signed URL of a dump, then certificates to trust, if any.
# Restores the dump into RESTORED, a new database beside DATABASE, detached; one of the same run that works or is done is
# left alone. A dump of another server's ("foreign") comes without its owners and rights: all is USER's. dump_status.sh tells how it stands. Prints "started", "running" or "done".
_job=$1/$2
case $8 in "$7"_rb_*) ;; *) fail "'$8' is no name of a restored copy of $7" ;; esac
umask 077
mkdir -p "$_job"
find "$1" -mindepth 1 -maxdepth 1 -type d -mmin +1440 ! -path "$_job" -exec rm -rf {} +
IFS= read -r PGPASSWORD || :
IFS= read -r DUMP_URL || :
export PGPASSWORD DUMP_URL
PGHOST=$4 PGPORT=$5 PGUSER=$6 PGDATABASE=$7 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-restore
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
cat >"$_job/ca.$$"
cat >"$_job/restore.sh.$$" <<'RESTORE'
set -eu
umask 077
_job=$1 _bin=$2 _restored=$3 _sha256=$4 _size=$5 _foreign=$6
PATH=$_bin:$PATH
PGOPTIONS='-c client_min_messages=warning'
export PGOPTIONS
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 -v restored="$_restored" "$@"; }
say() { printf '%s\n' "$*" >&2; }
clean_up() {
  _code=$?
  rm -f "$_job/backup.pgc" "$_job/list"
  [ "$_code" -eq 0 ] && return
  # Half a copy is never left to be taken for a whole one.
  sql -c "DROP DATABASE IF EXISTS \"$_restored\" WITH (FORCE)" >&2 || :
  echo "$_code" >"$_job/failed"
}
trap clean_up EXIT
trap 'exit 143' TERM
_began=$(date +%s)
_database_bytes=$(sql -c 'SELECT pg_database_size(current_database())')
_free_kib=$(df -Pk "$_job" | awk 'NR == 2 {print $4}')
# The dump, and the copy where the server keeps it on the same disk.
_need_kib=$((_size / 1024 + _database_bytes * 6 / 5 / 1024 + 65536))
if [ "$_free_kib" -lt "$_need_kib" ]; then
  say "disk full: $_free_kib KiB free in $_job, $_need_kib KiB needed"
  exit 1
fi
if [ "$(sql -c 'SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user')" != t ]; then
  say "role $PGUSER may not create databases: as a superuser, ALTER ROLE \"$PGUSER\" CREATEDB"
  exit 1
fi
if [ -s "$_job/ca.pem" ]; then set -- --cacert "$_job/ca.pem"; else set --; fi
printf 'url = "%s"\n' "$DUMP_URL" |
  curl -sS --fail --retry 2 --connect-timeout 5 "$@" -o "$_job/backup.pgc" -K - 2>"$_job/said" || {
  say "the backup could not be fetched: $(sed 's|https\{0,1\}://[^ ]*|URL|g' "$_job/said")"
  exit 1
}
_got=$(sha256sum "$_job/backup.pgc" | cut -d' ' -f1)
if [ "$_got" != "$_sha256" ]; then
  say "the backup in object storage has SHA-256 $_got, its manifest says $_sha256: it was changed, or cut"
  exit 1
fi
sql -c "DROP DATABASE IF EXISTS \"$_restored\" WITH (FORCE)"
# As the one that it may replace: owner, encoding, locale, place, limit.
sql <<'SQL'
SELECT format('CREATE DATABASE %I TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L%s%s CONNECTION LIMIT %s',
  :'restored', pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
  CASE WHEN to_jsonb(d) ->> 'datlocprovider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L',
    coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale')) ELSE '' END,
  CASE WHEN d.dattablespace = p.dattablespace THEN '' ELSE format(' TABLESPACE %I', t.spcname) END, d.datconnlimit)
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace JOIN pg_database p ON p.datname = 'template0'
WHERE d.datname = current_database() \gexec
SQL
# What only a superuser may create is left out, and told by the comparison of both databases.
_trusted=$(sql -c "SELECT DISTINCT v.name FROM pg_available_extension_versions v JOIN pg_roles r ON r.rolname = current_user WHERE v.trusted OR r.rolsuper")
pg_restore --list "$_job/backup.pgc" | awk -v trusted="$_trusted" '
  BEGIN { n = split(trusted, names, "\n"); for (i = 1; i <= n; i++) may[names[i]] = 1 }
  $4 == "EXTENSION" && !($6 in may) { next }
  $4 == "COMMENT" && $6 == "EXTENSION" { next }
  { print }' >"$_job/list"
if [ "$_foreign" = foreign ]; then set -- --no-owner --no-privileges; else set --; fi
pg_restore --dbname="$_restored" --exit-on-error --jobs=2 "$@" --use-list="$_job/list" "$_job/backup.pgc"
# The planner goes by these from the first query on.
sql -d "$_restored" -c ANALYZE
# One that is refused is told by the comparison; quoted as pg_dump quotes them.
psql -X -A -t -q -v restored="$_restored" <<'SQL'
SELECT format('ALTER %s SET %I TO %s',
  CASE s.setrole WHEN 0 THEN format('DATABASE %I', :'restored')
    ELSE format('ROLE %I IN DATABASE %I', pg_get_userbyid(s.setrole), :'restored') END, split_part(c, '=', 1),
  CASE WHEN split_part(c, '=', 1) IN ('search_path', 'temp_tablespaces', 'session_preload_libraries', 'local_preload_libraries')
    THEN substr(c, strpos(c, '=') + 1) ELSE quote_literal(substr(c, strpos(c, '=') + 1)) END)
FROM pg_db_role_setting s, unnest(s.setconfig) c
WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'restored') FROM pg_database
WHERE datname = current_database() AND datacl IS NOT NULL \gexec
SELECT format('GRANT %s ON DATABASE %I TO %s%s', a.privilege_type, :'restored',
  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database() \gexec
SQL
printf '{"seconds": %s, "oid": %s}\n' "$(($(date +%s) - _began))" \
  "$(sql <<'SQL'
SELECT oid FROM pg_database WHERE datname = :'restored'
SQL
)" >"$_job/result.json.part"
mv "$_job/result.json.part" "$_job/result.json"
RESTORE
# The detached restore inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  rm -f "$_job/ca.$$" "$_job/restore.sh.$$"
  echo running
elif [ -f "$_job/result.json" ]; then
  rm -f "$_job/ca.$$" "$_job/restore.sh.$$"
  echo done
else
  mv "$_job/ca.$$" "$_job/ca.pem"
  mv "$_job/restore.sh.$$" "$_job/restore.sh"
  rm -f "$_job/failed"
  setsid timeout -k 30 "${11}" sh "$_job/restore.sh" "$_job" "/usr/lib/postgresql/$3/bin" "$8" "$9" "${10}" "${12:-}" >"$_job/log" 2>&1 </dev/null &
  echo started
fi
