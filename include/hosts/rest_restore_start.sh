# rest_restore_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB DUMP_JOB BIN SOCKET_DIR PORT DATABASE PROCESSES TIMEOUT_SECONDS
# Restores into DATABASE of the running server, which serves already, what DUMP_JOB's file rest.list names of its dump, detached.
# It belongs to the cluster's owner and nobody else may use it until rest_restore_publish.sh. Then all rows are counted. One of the
# same job that works or is done is left alone. dump_status.sh tells how it stands. Prints "started", "running" or "done". Run as
# the owner of the cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
umask 077
mkdir -p "$_job"
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
cd /
echo "$PPID" >"$JOB/pid"
export PGHOST PGPORT PGUSER PGCONNECT_TIMEOUT PGAPPNAME PGOPTIONS
PGUSER=$(id -un) PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-restore
PGOPTIONS='-c client_min_messages=warning -c statement_timeout=0'
say() { printf '%s\n' "$*" >&2; }
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 -d "$DATABASE" "$@"; }
clean_up() {
  _code=$?
  [ "$_code" -eq 0 ] || echo "$_code" >"$JOB/failed"
}
trap clean_up EXIT
trap 'exit 143' TERM
_began=$(date +%s.%N)
[ "$(sql -c "SELECT to_regnamespace('sebenza_rest') IS NOT NULL AND NOT pg_is_in_recovery()")" = t ] ||
  { say "$DATABASE waits for no rest here: it is whole already, or this server is a replica"; exit 1; }
_dump=$(find "$DUMP/dump" -mindepth 1 -maxdepth 1)
# What a try that was killed has left goes first: nobody else could use it yet.
pg_restore --dbname="$DATABASE" --clean --if-exists --no-owner --no-privileges --exit-on-error --jobs="$PROCESSES" --use-list="$DUMP/rest.list" "$_dump" >&2
sql -c ANALYZE
sql -f "$DUMP/count.sql" >"$JOB/rows.jsonl"
_ended=$(date +%s.%N)
awk -v began="$_began" -v ended="$_ended" 'BEGIN { printf "{\"seconds\": %.3f}\n", ended - began }' >"$JOB/result.json.part"
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
  setsid env JOB="$_job" DUMP="$1/$3" PATH="$4:$PATH" PGHOST="$5" PGPORT="$6" DATABASE="$7" PROCESSES="$8" \
    timeout -k 60 "$9" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
