# database_restore_discard.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB BIN SOCKET_DIR PORT RESTORED: ends a
# database_restore_start.sh of this job, drops the database that it has made unless that has its own name by now, and removes
# the dump. Prints "removed" or "absent".
fence "$1" "$2" "$3" "$4"
shift 4
cd /
case $6 in sebenza_restore_????????????) ;; *) fail "'$6' is no name of a database that is being restored" ;; esac
_job=$1/$2
if [ -f "$_job/lock" ] && ! flock -n "$_job/lock" true; then
  # timeout(1), which hands it on to all that it has started; the job drops what it has made.
  kill -TERM "$(cat "$_job/pid")" || :
  flock -w 70 "$_job/lock" true || fail "the restore into $6 does not end: look at it on the host"
fi
PGHOST=$4 PGPORT=$5 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-restore
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
_was=$("$3/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v restored="$6" 9>&- <<'SQL'
SELECT 'removed' FROM pg_database WHERE datname = :'restored'
SQL
)
"$3/psql" -X -q -v ON_ERROR_STOP=1 -c "DROP DATABASE IF EXISTS \"$6\" WITH (FORCE)" 2>/dev/null 9>&- || fail "$6 could not be dropped"
rm -rf "$_job/dump" "$_job/result.json"
echo "${_was:-absent}"
