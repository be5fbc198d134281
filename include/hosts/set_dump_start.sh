# set_dump_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB CONFIG STANZA SET TARGET MAJOR_VERSION DATABASE PROCESSES
#   NEED_BYTES TIMEOUT_SECONDS
# Dumps one database out of a backup set, detached: restores the set into a scratch instance up to TARGET (an LSN, or
# "immediate": the end of the backup), runs standard input there as SQL (none: nothing), dumps, proves the dump, and removes the
# instance. It listens on no network and archives nothing. What the SQL prints is in the job's file "prepared". One of the same
# job that works or is done is left alone. dump_status.sh tells how it stands. Prints "started", "running" or "done". Run as
# the owner of the cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
case $6 in immediate) ;; *[!0-9A-F/]* | '') fail "'$6' is no LSN" ;; esac
umask 077
mkdir -p "$_job"
cat >"$_job/prepare.sql.$$"
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
_data=$JOB/data
say() { printf '%s\n' "$*" >&2; }
# A Unix socket's path has at most 107 bytes.
_sock=$(mktemp -d /tmp/sebenza-restore.XXXXXX)
stop_scratch() { [ ! -f "$_data/postmaster.pid" ] || pg_ctl stop --pgdata "$_data" --mode "$1" --wait --timeout 60 >&2 || :; }
clean_up() {
  _code=$?
  stop_scratch immediate
  rm -rf "$_data" "$JOB/tablespaces" "$_sock"
  [ "$_code" -eq 0 ] || { rm -f "$JOB/dump.pgc"; echo "$_code" >"$JOB/failed"; }
}
trap clean_up EXIT
trap 'exit 143' TERM
# What a try that was killed has left; nothing else is ever below this directory.
stop_scratch immediate
rm -rf "$_data" "$JOB/tablespaces" "$JOB/dump.pgc" "$JOB/prepared"
_free_kib=$(df -Pk "$JOB" | awk 'NR == 2 {print $4}')
if [ "$_free_kib" -lt $((NEED_BYTES / 1024)) ]; then
  say "disk full: $_free_kib KiB free in $JOB, $((NEED_BYTES / 1024)) KiB needed for the restored copy and its dump"
  exit 1
fi
mkdir "$_data"
_began=$(date +%s)
if [ "$TARGET" = immediate ]; then set -- --type=immediate; else set -- --type=lsn "--target=$TARGET"; fi
pgbackrest "--config=$CONFIG" "--stanza=$STANZA" "--set=$SET" "--pg1-path=$_data" "--tablespace-map-all=$JOB/tablespaces" \
  --archive-mode=off "--process-max=$PROCESSES" "$@" --target-action=promote restore >&2
printf 'local all all peer\n' >"$JOB/hba"
: >"$JOB/empty.conf"
# On the command line, where nothing that came along in the restored files wins over it. Without the lock: an instance that
# outlives its job is ended by the next try.
pg_ctl start --pgdata "$_data" --wait --timeout 30 --log "$JOB/scratch.log" --options "-c config_file=$JOB/empty.conf \
  -c hba_file=$JOB/hba -c listen_addresses= -c unix_socket_directories=$_sock -c port=5432 -c archive_mode=off -c ssl=off \
  -c primary_conninfo= -c primary_slot_name= -c shared_preload_libraries= -c hot_standby=off -c max_prepared_transactions=100 \
  -c logging_collector=off -c fsync=off" >&2 8>&- || :
PGHOST=$_sock PGPORT=5432 PGCONNECT_TIMEOUT=5
export PGHOST PGPORT PGCONNECT_TIMEOUT
# pg_ctl ends well for a recovery that dies a moment later.
until [ "$(psql -X -A -t -d postgres -c 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; do
  pg_ctl status --pgdata "$_data" >/dev/null || { say "the recovery has ended: $(grep -E 'FATAL|PANIC' "$JOB/scratch.log" | tail -n 2)"; exit 1; }
  sleep 0.2
done
# Terse: what a message quotes beside is somebody's data.
if [ -s "$JOB/prepare.sql" ]; then
  psql -X -A -t -q -v ON_ERROR_STOP=1 -v VERBOSITY=terse -v SHOW_CONTEXT=never -d "$DATABASE" -f "$JOB/prepare.sql" \
    >"$JOB/prepared" 2>"$JOB/complaints" || { say "refused: $(grep -v NOTICE "$JOB/complaints" | tail -n 3 | sed 's/^psql:[^ ]* //')"; exit 1; }
fi
pg_dump --format=custom --compress=1 --file="$JOB/dump.pgc" --dbname="$DATABASE"
# The list is read from the file's head alone; only reading all of it shows that all of it is there.
_entries=$(pg_restore --list "$JOB/dump.pgc" | grep -c '^[0-9]' || :)
[ "$_entries" -gt 0 ] || { say "the dump holds nothing"; exit 1; }
pg_restore --file=/dev/null "$JOB/dump.pgc"
_ended=$(date +%s)
sync "$JOB/dump.pgc"
_sha256=$(sha256sum "$JOB/dump.pgc" | cut -d' ' -f1)
printf '{"size_bytes": %s, "sha256": "%s", "seconds": %s, "entries": %s, "made_with": "%s"}\n' \
  "$(stat -c %s "$JOB/dump.pgc")" "$_sha256" "$((_ended - _began))" "$_entries" "$(pg_dump --version)" >"$JOB/result.json.part"
mv "$JOB/result.json.part" "$JOB/result.json"
JOB
# The detached job inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  rm -f "$_job"/*.$$
  echo running
elif [ -f "$_job/result.json" ]; then
  rm -f "$_job"/*.$$
  echo done
else
  for _file in prepare.sql job.sh; do mv "$_job/$_file.$$" "$_job/$_file"; done
  rm -f "$_job/failed"
  setsid env JOB="$_job" PATH="/usr/lib/postgresql/$7/bin:$PATH" CONFIG="$3" STANZA="$4" SET="$5" TARGET="$6" DATABASE="$8" \
    PROCESSES="$9" NEED_BYTES="${10}" timeout -k 90 "${11}" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
