# drill_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB CONFIG STANZA MAJOR_VERSION ADDRESS PORT CLIENT DATABASE PROCESSES
#   NEED_BYTES TIMEOUT_SECONDS
# Restores the newest set with all WAL there is into an instance of its own, detached, and leaves it running on ADDRESS:PORT for
# CLIENT (an address) and this host's sockets. Standard input, three lines: the repository's passphrase, its key id, its secret:
# these open it, and not what this host's configuration says. It archives nothing. dump_status.sh tells how it stands,
# drill_stop.sh ends and removes it. Prints "started", "running" or "done". Run as the owner of the cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
case $7 in '' | *[!0-9]*) fail "'$7' is no port" ;; esac
case $6$8 in '' | *[!0-9.]*) fail "'$6' or '$8' is no address" ;; esac
IFS= read -r _passphrase || :
IFS= read -r _key || :
IFS= read -r _secret || :
[ -n "$_passphrase" ] && [ -n "$_secret" ] || fail "the passphrase, the key and its secret are needed on standard input"
umask 077
mkdir -p "$_job"
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
# setsid(1): this process leads its group.
ps -o pgid= -p $$ | tr -d ' ' >"$JOB/leader"
_data=$JOB/data
say() { printf '%s\n' "$*" >&2; }
ended() {
  _code=$?
  [ "$_code" -ne 0 ] || return 0
  [ ! -f "$_data/postmaster.pid" ] || pg_ctl stop --pgdata "$_data" --mode immediate --wait --timeout 60 >&2 || :
  echo "$_code" >"$JOB/failed"
}
trap ended EXIT
trap 'exit 143' TERM
# What a try that was killed has left; nothing else is ever below this directory.
[ ! -f "$_data/postmaster.pid" ] || pg_ctl stop --pgdata "$_data" --mode immediate --wait --timeout 60 >&2 || :
rm -rf "$_data" "$JOB/tablespaces" "$JOB/sock"
_free_kib=$(df -Pk "$JOB" | awk 'NR == 2 {print $4}')
if [ "$_free_kib" -lt $((NEED_BYTES / 1024)) ]; then
  say "disk full: $_free_kib KiB free in $JOB, $((NEED_BYTES / 1024)) KiB needed for the restored copy"
  exit 1
fi
mkdir "$_data"
_sock=$(mktemp -d /tmp/sebenza-drill.XXXXXX)
printf '%s\n' "$_sock" >"$JOB/sock"
_began=$(date +%s.%N)
pgbackrest "--config=$CONFIG" "--stanza=$STANZA" "--pg1-path=$_data" "--tablespace-map-all=$JOB/tablespaces" \
  --archive-mode=off "--process-max=$PROCESSES" restore >&2
_restored=$(date +%s.%N)
# With a password from the application's host, and from this one.
printf 'local all all peer\nhost %s all %s/32 scram-sha-256\nhost %s all samehost scram-sha-256\n' "$DATABASE" "$CLIENT" "$DATABASE" >"$JOB/hba"
: >"$JOB/empty.conf"
pg_ctl start --pgdata "$_data" --wait --timeout 30 --log "$JOB/instance.log" --options "-c config_file=$JOB/empty.conf \
  -c hba_file=$JOB/hba -c listen_addresses=$ADDRESS -c unix_socket_directories=$_sock -c port=$PORT -c archive_mode=off -c ssl=off \
  -c primary_conninfo= -c primary_slot_name= -c shared_preload_libraries= -c hot_standby=off -c max_prepared_transactions=100 \
  -c max_connections=200 -c logging_collector=off -c password_encryption=scram-sha-256" >&2 8>&- || :
PGHOST=$_sock PGPORT=$PORT PGCONNECT_TIMEOUT=5 PGDATABASE=postgres
export PGHOST PGPORT PGCONNECT_TIMEOUT PGDATABASE
# pg_ctl ends well for a recovery that dies a moment later.
until [ "$(psql -X -A -t -c 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; do
  pg_ctl status --pgdata "$_data" >/dev/null || { say "the recovery has ended: $(grep -E 'FATAL|PANIC' "$JOB/instance.log" | tail -n 2)"; exit 1; }
  sleep 0.2
done
_ready=$(date +%s.%N)
_last=$(psql -X -A -t -c 'SELECT coalesce(extract(epoch FROM pg_last_xact_replay_timestamp()), 0)')
# Of a backup that needed no WAL, the last checkpoint's time is the last that is known.
[ "${_last%%.*}" -gt 0 ] || _last=$(psql -X -A -t -c 'SELECT extract(epoch FROM checkpoint_time) FROM pg_control_checkpoint()')
_bytes=$(du -sb "$_data" | cut -f1)
_timeline=$(psql -X -A -t -c 'SELECT timeline_id FROM pg_control_checkpoint()')
_system=$(psql -X -A -t -c 'SELECT system_identifier FROM pg_control_system()')
awk -v began="$_began" -v restored="$_restored" -v ready="$_ready" -v last="$_last" -v bytes="$_bytes" -v t="$_timeline" -v s="$_system" 'BEGIN {
  printf "{\"seconds\": %.3f, \"restore_seconds\": %.3f, \"replay_seconds\": %.3f, \"last_commit_at\": %.3f, \"restored_bytes\": %d, \"timeline\": %d, \"system_identifier\": \"%s\"}\n",
    ready - began, restored - began, ready - restored, last, bytes, t, s }' >"$JOB/result.json.part"
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
  PGBACKREST_REPO1_CIPHER_PASS=$_passphrase PGBACKREST_REPO1_S3_KEY=$_key PGBACKREST_REPO1_S3_KEY_SECRET=$_secret
  export PGBACKREST_REPO1_CIPHER_PASS PGBACKREST_REPO1_S3_KEY PGBACKREST_REPO1_S3_KEY_SECRET
  JOB=$_job CONFIG=$3 STANZA=$4 ADDRESS=$6 PORT=$7 CLIENT=$8 DATABASE=$9 PROCESSES=${10} NEED_BYTES=${11}
  PATH=/usr/lib/postgresql/$5/bin:$PATH
  export JOB CONFIG STANZA ADDRESS PORT CLIENT DATABASE PROCESSES NEED_BYTES PATH
  setsid timeout -k 90 "${12}" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
