# point_restore_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB CONFIG STANZA SET TYPE TARGET TIMELINE EXCLUSIVE DATA BIN
#   PROCESSES NEED_BYTES TIMEOUT_SECONDS
# Restores a whole cluster to a moment into DATA, a new directory, detached: files, WAL up to TARGET, pg_amcheck, pg_checksums;
# then leaves it running for people to look at: read-only, on a Unix socket alone, archiving nothing. TYPE is time, name, lsn or
# xid; TIMELINE the history to follow; EXCLUSIVE "yes" stops right before TARGET. One of the same job that works or is done is
# left alone; point_restore_discard.sh removes it. dump_status.sh tells how it stands. Prints "started", "running" or "done".
# Run as the owner of the cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
case $6 in time | name | lsn | xid) ;; *) fail "'$6' is no kind of target" ;; esac
case ${10} in *.restored-????????????) ;; *) fail "'${10}' is no name of a restored copy" ;; esac
umask 077
mkdir -p "$_job"
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
cd /
echo "$PPID" >"$JOB/pid"
say() { printf '%s\n' "$*" >&2; }
stop_instance() { [ ! -f "$DATA/postmaster.pid" ] || pg_ctl stop --pgdata "$DATA" --mode "$1" --wait --timeout 120 >&2 || :; }
clean_up() {
  _code=$?
  [ "$_code" -ne 0 ] || return
  # Half a copy is never left to be taken for a whole one.
  stop_instance immediate
  rm -rf "$DATA" "$_sock"
  echo "$_code" >"$JOB/failed"
}
trap clean_up EXIT
trap 'exit 143' TERM
# Beside the job's other files a socket's path could be longer than the 107 bytes that it may have.
_sock=/tmp/sebenza-${DATA##*.}
# What a try that was killed has left.
stop_instance immediate
rm -rf "$DATA" "$_sock" "$JOB/server.log"
mkdir "$_sock"
_free_kib=$(df -Pk "$(dirname "$DATA")" | awk 'NR == 2 {print $4}')
if [ "$_free_kib" -lt $((NEED_BYTES / 1024)) ]; then
  say "disk full: $_free_kib KiB free beside $DATA, $((NEED_BYTES / 1024)) KiB needed for the restored copy; nothing was restored"
  exit 1
fi
mkdir "$DATA"
now() { date +%s.%N; }
_began=$(now)
set --
[ "$EXCLUSIVE" != yes ] || set -- --target-exclusive
pgbackrest "--config=$CONFIG" "--stanza=$STANZA" "--set=$SET" "--pg1-path=$DATA" --archive-mode=off "--process-max=$PROCESSES" \
  "--type=$TYPE" "--target=$TARGET" "--target-timeline=$TIMELINE" --target-action=promote "$@" restore >&2
_restored=$(now)
_bytes=$(du -sb "$DATA" | cut -f1)
printf 'local all all peer\n' >"$JOB/hba"
: >"$JOB/empty.conf"
PGHOST=$_sock PGPORT=5432 PGCONNECT_TIMEOUT=5
export PGHOST PGPORT PGCONNECT_TIMEOUT
# On the command line, where nothing that came along in the restored files wins over it. With archive_mode and no command, what
# is written on the new timeline, its history too, is archived once this is the server, and nothing before. Without the lock:
# an instance that outlives its job is ended by the next try.
# What it writes into its WAL of these a replica must not have less of: as the cluster itself had them.
setting() { pg_controldata "$DATA" | sed -n "s/^$1 setting: *//p"; }
_as_before="-c wal_level=$(setting wal_level) -c wal_log_hints=$(setting wal_log_hints) -c max_connections=$(setting max_connections) \
  -c max_worker_processes=$(setting max_worker_processes) -c max_wal_senders=$(setting max_wal_senders) \
  -c max_prepared_transactions=$(setting max_prepared_xacts) -c max_locks_per_transaction=$(setting max_locks_per_xact) \
  -c track_commit_timestamp=$(setting track_commit_timestamp)"
start_instance() {
  pg_ctl start --pgdata "$DATA" --wait --timeout 60 --log "$JOB/server.log" --options "-c config_file=$JOB/empty.conf \
    -c hba_file=$JOB/hba -c listen_addresses= -c unix_socket_directories=$_sock -c port=5432 -c archive_mode=on -c archive_command= \
    -c ssl=off -c primary_conninfo= -c primary_slot_name= -c shared_preload_libraries= -c hot_standby=off \
    $_as_before -c logging_collector=off -c log_timezone=UTC -c timezone=UTC -c log_destination=stderr \
    -c autovacuum=off -c default_transaction_read_only=$1" >&2 8>&- || :
}
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 -d postgres "$@"; }
start_instance off
# pg_ctl ends well for a recovery that dies a moment later.
until [ "$(sql -c 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; do
  pg_ctl status --pgdata "$DATA" >/dev/null || { say "the recovery has ended: $(grep -E 'FATAL|PANIC' "$JOB/server.log" | tail -n 2)"; exit 1; }
  sleep 0.2
done
_replayed=$(now)
_reached=$(sql <<'SQL'
SELECT json_build_object('last_commit_at', pg_last_xact_replay_timestamp(), 'lsn', pg_last_wal_replay_lsn(),
  'timeline', ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'tablespaces', (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')))
SQL
)
databases() { sql -c "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0' ORDER BY 1"; }
has_amcheck() { for _name in $(databases); do [ -z "$(sql -d "$_name" -c "SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")" ] || echo "$_name"; done; }
_had=" $(has_amcheck | tr '\n' ' ')"
pg_amcheck --all --heapallindexed --install-missing --jobs="$PROCESSES" >"$JOB/amcheck" 2>&1 ||
  { say "pg_amcheck: $(head -n 5 "$JOB/amcheck")"; exit 1; }
# Nothing of the check stays in what may become the server.
for _name in $(has_amcheck); do
  case $_had in *" $_name "*) ;; *) sql -d "$_name" -c 'DROP EXTENSION amcheck' ;; esac
done
pg_ctl stop --pgdata "$DATA" --mode fast --wait --timeout 300 >&2
if [ "$(pg_controldata "$DATA" | sed -n 's/^Data page checksum version: *//p')" != 0 ]; then
  pg_checksums --check --pgdata "$DATA" >"$JOB/checksums" 2>&1 || { say "pg_checksums: $(tail -n 3 "$JOB/checksums")"; exit 1; }
fi
_checked=$(now)
start_instance on
[ "$(sql -c 'SELECT NOT pg_is_in_recovery()')" = t ] || { say "the restored server does not answer: $(tail -n 3 "$JOB/server.log")"; exit 1; }
_stopped=$(grep -o 'recovery stopping .*' "$JOB/server.log" | tail -n 1 | tr -d '\\"' || :)
awk -v began="$_began" -v restored="$_restored" -v replayed="$_replayed" -v checked="$_checked" -v bytes="$_bytes" \
  -v reached="$_reached" -v stopped="$_stopped" -v socket="$_sock" 'BEGIN {
  printf "{\"seconds\": %.3f, \"restore_seconds\": %.3f, \"replay_seconds\": %.3f, \"check_seconds\": %.3f, \"restored_bytes\": %d, \"reached\": %s, \"stopped\": \"%s\", \"socket\": \"%s\"}\n",
    checked - began, restored - began, replayed - restored, checked - replayed, bytes, reached, stopped, socket }' >"$JOB/result.json.part"
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
  setsid env JOB="$_job" PATH="${11}:$PATH" CONFIG="$3" STANZA="$4" SET="$5" TYPE="$6" TARGET="$7" TIMELINE="$8" EXCLUSIVE="$9" \
    DATA="${10}" PROCESSES="${12}" NEED_BYTES="${13}" timeout -k 90 "${14}" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
