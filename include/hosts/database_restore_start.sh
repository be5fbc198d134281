# database_restore_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB BIN SOCKET_DIR PORT DATABASE RESTORED PROCESSES SOURCE_SOCKET
#   TIMEOUT_SECONDS
# Restores the job's dump into RESTORED, a new database of the running server, detached; with a SOURCE_SOCKET (else "-") DATABASE is
# dumped first from the server there. One of the same job that works or is done is left alone; database_restore_discard.sh
# removes what it has made. dump_status.sh tells how it stands. Prints "started", "running" or "done". Run as the owner of the
# cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
case $7 in sebenza_restore_????????????) ;; *) fail "'$7' is no name of a database that is being restored" ;; esac
umask 077
mkdir -p "$_job"
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
cd /
echo "$PPID" >"$JOB/pid"
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME PGOPTIONS
PGHOST=$SOCKET PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-restore
PGOPTIONS='-c client_min_messages=warning -c statement_timeout=0'
say() { printf '%s\n' "$*" >&2; }
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 -v restored="$RESTORED" -v database="$DATABASE" "$@"; }
clean_up() {
  _code=$?
  [ "$_code" -ne 0 ] || return
  # Half a database is never left to be taken for a whole one.
  sql -c "DROP DATABASE IF EXISTS \"$RESTORED\" WITH (FORCE)" >&2 || :
  echo "$_code" >"$JOB/failed"
}
trap clean_up EXIT
trap 'exit 143' TERM
_began=$(date +%s.%N)
[ "$(sql -c 'SELECT pg_is_in_recovery()')" = f ] || { say "this server is a replica: a new database is made on the primary"; exit 1; }
sql -c "DROP DATABASE IF EXISTS \"$RESTORED\" WITH (FORCE)"
if [ "$SOURCE" != - ]; then
  rm -rf "$JOB/dump"
  mkdir "$JOB/dump"
  pg_dump --host="$SOURCE" --port=5432 --dbname="$DATABASE" --format=directory --jobs="$PROCESSES" --compress=1 --no-sync --file="$JOB/dump/database"
fi
_dump=$(find "$JOB/dump" -mindepth 1 -maxdepth 1)
# As the one that it is a copy of, if that is still there: owner, encoding, locale.
sql <<'SQL'
SELECT coalesce((SELECT format('CREATE DATABASE %I TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L%s',
  :'restored', pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
  CASE WHEN to_jsonb(d) ->> 'datlocprovider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L',
    coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale')) ELSE '' END)
  FROM pg_database d WHERE d.datname = :'database'), format('CREATE DATABASE %I TEMPLATE template0', :'restored')) \gexec
SQL
# Stopped at the first error: what pg_restore goes on after is lost. One file can be read by several processes, too.
pg_restore --dbname="$RESTORED" --exit-on-error --jobs="$PROCESSES" "$_dump" >&2
# The planner goes by these from the first query on.
sql -d "$RESTORED" -c ANALYZE
_ended=$(date +%s.%N)
_oid=$(sql <<'SQL'
SELECT oid FROM pg_database WHERE datname = :'restored'
SQL
)
awk -v began="$_began" -v ended="$_ended" -v oid="$_oid" 'BEGIN { printf "{\"seconds\": %.3f, \"oid\": %d}\n", ended - began, oid }' >"$JOB/result.json.part"
mv "$JOB/result.json.part" "$JOB/result.json"
JOB
# The detached restore inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  rm -f "$_job"/*.$$
  echo running
elif [ -f "$_job/result.json" ]; then
  rm -f "$_job"/*.$$
  echo done
else
  mv "$_job/job.sh.$$" "$_job/job.sh"
  rm -f "$_job/failed"
  setsid env JOB="$_job" PATH="$3:$PATH" SOCKET="$4" PGPORT="$5" DATABASE="$6" RESTORED="$7" PROCESSES="$8" SOURCE="$9" \
    timeout -k 60 "${10}" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
