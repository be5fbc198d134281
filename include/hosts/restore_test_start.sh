# restore_test_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB CONFIG STANZA SET LSN NOW_LSN MAJOR_VERSION DATABASE
#   PROCESSES NEED_BYTES TIMEOUT_SECONDS
# Restores a backup set into a scratch instance of its own, detached: files, which are written to disk and put out of the page
# cache; WAL up to LSN, where the rows of every table are counted; WAL up to NOW_LSN, pg_amcheck, pg_checksums; then removes it. It listens on no network and archives nothing. One of the same job that works or is done is left
# alone. dump_status.sh tells how it stands. Prints "started", "running" or "done". Run as the owner of the cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
for _lsn in "$6" "$7"; do
  case $_lsn in *[!0-9A-F/]* | '') fail "'$_lsn' is no LSN" ;; esac
done
umask 077
mkdir -p "$_job"
cat >"$_job/count.sql.$$" <<'SQL'
\set ON_ERROR_STOP 1
SET row_security = off;
SELECT format('SELECT json_build_object(''what'', ''table'', ''name'', %L, ''rows'', count(*)) FROM ONLY %I.%I',
  format('%s.%s', n.nspname, c.relname), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 \gexec
SQL
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
  [ "$_code" -eq 0 ] || echo "$_code" >"$JOB/failed"
}
trap clean_up EXIT
trap 'exit 143' TERM
# What a try that was killed has left; nothing else is ever below this directory.
stop_scratch immediate
rm -rf "$_data" "$JOB/tablespaces" "$JOB/rows.jsonl" "$JOB/amcheck"
_free_kib=$(df -Pk "$JOB" | awk 'NR == 2 {print $4}')
if [ "$_free_kib" -lt $((NEED_BYTES / 1024)) ]; then
  say "disk full: $_free_kib KiB free in $JOB, $((NEED_BYTES / 1024)) KiB needed for the restored copy"
  exit 1
fi
mkdir "$_data"
now() { date +%s.%N; }
_began=$(now)
pgbackrest "--config=$CONFIG" "--stanza=$STANZA" "--set=$SET" "--pg1-path=$_data" "--tablespace-map-all=$JOB/tablespaces" \
  --archive-mode=off "--process-max=$PROCESSES" --type=lsn "--target=$LSN" --target-action=pause restore >&2
mkdir -p "$JOB/tablespaces"
find "$_data" "$JOB/tablespaces" -type f -print0 | xargs -0 -r -n 64 -P "$PROCESSES" sync
_restored=$(now)
_bytes=$(du -sb "$_data" "$JOB/tablespaces" | awk '{sum += $1} END {print sum}')
# What replays next reads from the disk, as after a real restore of more than the memory holds (posix_fadvise, DONTNEED).
find "$_data" "$JOB/tablespaces" -type f -print0 |
  xargs -0 -r -n 64 -P "$PROCESSES" sh -c 'for file; do dd "if=$file" iflag=nocache count=0 status=none; done' _
_resident=$(find "$_data" "$JOB/tablespaces" -type f -exec fincore --bytes --noheadings --output RES {} + 2>/dev/null |
  awk '{sum += $1} END {print sum + 0}') || _resident=-1
command -v fincore >/dev/null || _resident=-1
_evicted=$(now)
printf 'local all all peer\n' >"$JOB/hba"
: >"$JOB/empty.conf"
# A hot standby refuses less than the primary had (PostgreSQL, "Hot Standby").
setting() { pg_controldata "$_data" | sed -n "s/^$1 setting: *//p"; }
_limits="-c max_connections=$(setting max_connections) -c max_worker_processes=$(setting max_worker_processes) \
  -c max_wal_senders=$(setting max_wal_senders) -c max_prepared_transactions=$(setting max_prepared_xacts) \
  -c max_locks_per_transaction=$(setting max_locks_per_xact)"
# On the command line, where nothing that came along in the restored files wins over it. Without the lock: an instance that
# outlives its job is ended by the next try.
start_scratch() {
  pg_ctl start --pgdata "$_data" --wait --timeout 30 --log "$JOB/scratch.log" --options "-c config_file=$JOB/empty.conf \
    -c hba_file=$JOB/hba -c listen_addresses= -c unix_socket_directories=$_sock -c port=5432 -c archive_mode=off -c ssl=off \
    -c primary_conninfo= -c primary_slot_name= -c shared_preload_libraries= -c hot_standby=on $_limits \
    -c logging_collector=off $*" >&2 8>&- || :
}
ask() { psql -X -A -t -d postgres -c "$1" 2>/dev/null; }
# pg_ctl ends well for a recovery that dies a moment later.
await() {
  until [ "$(ask "$1")" = t ]; do
    pg_ctl status --pgdata "$_data" >/dev/null || { say "the recovery has ended: $(grep -E 'FATAL|PANIC' "$JOB/scratch.log" | tail -n 2)"; exit 1; }
    sleep 0.2
  done
}
PGHOST=$_sock PGPORT=5432 PGCONNECT_TIMEOUT=5
export PGHOST PGPORT PGCONNECT_TIMEOUT
start_scratch
await "SELECT pg_get_wal_replay_pause_state() = 'paused'"
_counting=$(now)
_reached=$(ask "SELECT pg_last_wal_replay_lsn() >= '$LSN'::pg_lsn")
[ "$_reached" = t ] || { say "the recovery has stopped before $LSN: $(tail -n 2 "$JOB/scratch.log")"; exit 1; }
psql -X -A -t -q -v ON_ERROR_STOP=1 -d "$DATABASE" -f "$JOB/count.sql" >"$JOB/rows.jsonl"
pg_ctl stop --pgdata "$_data" --mode fast --wait --timeout 300 >&2
_counted=$(now)
start_scratch -c "recovery_target_lsn=$NOW_LSN" -c recovery_target_action=promote
await 'SELECT NOT pg_is_in_recovery()'
_replayed=$(now)
_reached=$(ask "SELECT pg_current_wal_lsn() >= '$NOW_LSN'::pg_lsn")
[ "$_reached" = t ] || { say "the recovery has not reached $NOW_LSN"; exit 1; }
pg_amcheck --all --heapallindexed --install-missing --jobs="$PROCESSES" >"$JOB/amcheck" 2>&1 ||
  { say "pg_amcheck: $(head -n 5 "$JOB/amcheck")"; exit 1; }
pg_ctl stop --pgdata "$_data" --mode fast --wait --timeout 300 >&2
_sums=$(pg_controldata "$_data" | sed -n 's/^Data page checksum version: *//p')
if [ "$_sums" != 0 ]; then
  pg_checksums --check --pgdata "$_data" >"$JOB/checksums" 2>&1 || { say "pg_checksums: $(tail -n 3 "$JOB/checksums")"; exit 1; }
fi
_ended=$(now)
awk -v began="$_began" -v restored="$_restored" -v evicted="$_evicted" -v counting="$_counting" -v counted="$_counted" \
  -v replayed="$_replayed" -v ended="$_ended" -v bytes="$_bytes" -v resident="$_resident" -v sums="$_sums" 'BEGIN {
  printf "{\"seconds\": %.3f, \"restore_seconds\": %.3f, \"replay_seconds\": %.3f, \"check_seconds\": %.3f, ",
    ended - began, restored - began, counting - evicted + replayed - counted, counted - counting + ended - replayed
  printf "\"restored_bytes\": %d, \"resident_bytes\": %d, \"checksums\": %s}\n", bytes, resident, sums != 0 ? "true" : "false" }' >"$JOB/result.json.part"
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
  for _file in count.sql job.sh; do mv "$_job/$_file.$$" "$_job/$_file"; done
  rm -f "$_job/failed"
  setsid env JOB="$_job" PATH="/usr/lib/postgresql/$8/bin:$PATH" CONFIG="$3" STANZA="$4" SET="$5" LSN="$6" NOW_LSN="$7" DATABASE="$9" \
    PROCESSES="${10}" NEED_BYTES="${11}" timeout -k 90 "${12}" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
