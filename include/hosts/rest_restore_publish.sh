# rest_restore_publish.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR DUMP_JOB BIN SOCKET_DIR PORT DATABASE: gives what
# rest_restore_start.sh has restored to its owners, with its rights, and lets rows be deleted again; all of it or nothing. Prints
# "published" or "already". Run as the owner of the cluster.
fence "$1" "$2" "$3" "$4"
shift 4
cd /
umask 077
PGHOST=$4 PGPORT=$5 PGUSER=$(id -un) PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-restore
PGOPTIONS='-c client_min_messages=warning -c lock_timeout=5s'
export PGHOST PGPORT PGUSER PGCONNECT_TIMEOUT PGAPPNAME PGOPTIONS
_job=$1/$2 _bin=$3 _database=$6
sql() { "$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -d "$_database" "$@" 9>&-; }
if [ "$(sql -c "SELECT to_regnamespace('sebenza_rest') IS NULL")" = t ]; then
  echo already
  exit 0
fi
_dump=$(find "$_job/dump" -mindepth 1 -maxdepth 1)
{
  "$_bin/pg_restore" --schema-only --use-list="$_job/rest.list" --file=- "$_dump" >"$_job/rest.sql"
  grep -E '^ALTER [A-Z ]+ .* OWNER TO [^ ]+;$' "$_job/rest.sql" || :
  if [ -s "$_job/rights.list" ]; then "$_bin/pg_restore" --schema-only --use-list="$_job/rights.list" --file=- "$_dump"; fi
  echo 'DROP SCHEMA sebenza_rest CASCADE;'
} >"$_job/publish.sql"
# It waits for no transaction of users for long, who would wait behind it.
_tries=0
until sql -1 -f "$_job/publish.sql" >"$_job/published" 2>&1; do
  _tries=$((_tries + 1))
  if [ "$_tries" -ge 6 ] || ! grep -q 'lock timeout' "$_job/published"; then fail "it was not published, nothing was changed: $(tail -n 2 "$_job/published")"; fi
  sleep 1
done
echo published
