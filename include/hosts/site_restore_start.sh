# site_restore_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB CONFIG STANZA SET COUNT_LSN END_LSN TIMELINE DATA BIN DATABASE
#   PROCESSES NEED_BYTES TIMEOUT_SECONDS
# Restores a whole cluster into DATA, a new directory, to become the server of a site that takes over; detached, stopped at its
# end. Up to END_LSN, or it fails; with a COUNT_LSN (else "-") the rows of DATABASE's tables are counted there. END_LSN "-": up to
# the end of SET, with DATABASE from the job's dump instead, of it what the job's file critical.list names; rows that the file
# guarded protects (schema, table, key, with tabs between) can't be deleted until the rest is there. Standard input, three lines: the repository's passphrase, its key id,
# its secret. It archives nothing and listens on no network. One of the same job that works or is done is left alone.
# dump_status.sh tells how it stands. Prints "started", "running" or "done". Run as the owner of the cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
case $9 in *.restored-????????????) ;; *) fail "'$9' is no name of a restored copy" ;; esac
for _lsn in "$6" "$7"; do
  case $_lsn in -) ;; *[!0-9A-F/]* | '') fail "'$_lsn' is no LSN" ;; esac
done
IFS= read -r _passphrase || :
IFS= read -r _key || :
IFS= read -r _secret || :
[ -n "$_passphrase" ] && [ -n "$_secret" ] || fail "the passphrase, the key and its secret are needed on standard input"
umask 077
mkdir -p "$_job"
cat >"$_job/count.sql.$$" <<'SQL'
\set ON_ERROR_STOP 1
SET row_security = off;
SELECT format('SELECT json_build_object(''what'', ''table'', ''name'', %L, ''rows'', count(*)) FROM ONLY %I.%I',
  format('%s.%s', n.nspname, c.relname), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'sebenza_rest')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 \gexec
SQL
# A row of the rest may point to one of these: a key that is gone or another one by then would end its restore.
cat >"$_job/guard.sql.$$" <<'SQL'
\set ON_ERROR_STOP 1
CREATE SCHEMA sebenza_rest;
CREATE FUNCTION sebenza_rest.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the rest of the database is being restored: until then nothing is deleted from %', TG_TABLE_NAME
    USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;
CREATE TEMPORARY TABLE guarded (namespace name, relation name, key name);
\copy guarded FROM pstdin
SELECT format('CREATE TRIGGER sebenza_rest_delete BEFORE DELETE ON %I.%I FOR EACH ROW EXECUTE FUNCTION sebenza_rest.refuse()', namespace, relation),
  format('CREATE TRIGGER sebenza_rest_truncate BEFORE TRUNCATE ON %I.%I EXECUTE FUNCTION sebenza_rest.refuse()', namespace, relation)
FROM (SELECT DISTINCT namespace, relation FROM guarded) AS t \gexec
SELECT format('CREATE TRIGGER %I BEFORE UPDATE OF %s ON %I.%I FOR EACH ROW WHEN (%s) EXECUTE FUNCTION sebenza_rest.refuse()',
  'sebenza_rest_' || g.key, string_agg(quote_ident(a.attname), ', '), g.namespace, g.relation,
  string_agg(format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', a.attname), ' OR '))
FROM guarded g JOIN pg_index i ON i.indexrelid = to_regclass(format('%I.%I', g.namespace, g.key))
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) GROUP BY g.namespace, g.relation, g.key \gexec
SQL
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
cd /
echo "$PPID" >"$JOB/pid"
say() { printf '%s\n' "$*" >&2; }
stop_instance() { [ ! -f "$DATA/postmaster.pid" ] || pg_ctl stop --pgdata "$DATA" --mode "$1" --wait --timeout 300 >&2; }
clean_up() {
  _code=$?
  stop_instance immediate || :
  rm -rf "$_sock"
  [ "$_code" -ne 0 ] || return 0
  # Half a copy is never left to be taken for a whole one.
  rm -rf "$DATA"
  echo "$_code" >"$JOB/failed"
}
trap clean_up EXIT
trap 'exit 143' TERM
# Beside the job's other files a socket's path could be longer than the 107 bytes that it may have.
_sock=/tmp/sebenza-${DATA##*.}
# What a try that was killed has left.
stop_instance immediate || :
rm -rf "$DATA" "$_sock" "$JOB/server.log" "$JOB/rows.jsonl" "$JOB/spool"
mkdir "$_sock" "$JOB/spool"
_free_kib=$(df -Pk "$(dirname "$DATA")" | awk 'NR == 2 {print $4}')
if [ "$_free_kib" -lt $((NEED_BYTES / 1024)) ]; then
  say "disk full: $_free_kib KiB free beside $DATA, $((NEED_BYTES / 1024)) KiB needed for the restored cluster; nothing was restored"
  exit 1
fi
mkdir "$DATA"
# Apart from the server that may still run here, and archive or fetch by the same stanza.
PGBACKREST_SPOOL_PATH=$JOB/spool PGBACKREST_LOCK_PATH=$JOB/spool
export PGBACKREST_SPOOL_PATH PGBACKREST_LOCK_PATH
now() { date +%s.%N; }
_began=$(now)
set -- --type=lsn "--target=$END_LSN" --target-action=promote "--target-timeline=$TIMELINE"
[ "$COUNT_LSN" = - ] || set -- --type=lsn "--target=$COUNT_LSN" --target-action=pause "--target-timeline=$TIMELINE"
[ "$END_LSN" != - ] || set -- --type=immediate --target-action=promote "--db-exclude=$DATABASE"
pgbackrest "--config=$CONFIG" "--stanza=$STANZA" "--set=$SET" "--pg1-path=$DATA" --archive-mode=off "--process-max=$PROCESSES" "$@" restore >&2
_restored=$(now)
_bytes=$(du -sb "$DATA" | cut -f1)
printf 'local all all peer\n' >"$JOB/hba"
: >"$JOB/empty.conf"
PGHOST=$_sock PGPORT=5432 PGCONNECT_TIMEOUT=5
export PGHOST PGPORT PGCONNECT_TIMEOUT
# What it writes into its WAL of these a replica must not have less of: as the cluster itself had them. With archive_mode and no
# command, what is written on the new timeline is archived once this is the server, and nothing before. Without the lock: an
# instance that outlives its job is ended by the next try.
setting() { pg_controldata "$DATA" | sed -n "s/^$1 setting: *//p"; }
_as_before="-c wal_level=$(setting wal_level) -c wal_log_hints=$(setting wal_log_hints) -c max_connections=$(setting max_connections) \
  -c max_worker_processes=$(setting max_worker_processes) -c max_wal_senders=$(setting max_wal_senders) \
  -c max_prepared_transactions=$(setting max_prepared_xacts) -c max_locks_per_transaction=$(setting max_locks_per_xact) \
  -c track_commit_timestamp=$(setting track_commit_timestamp)"
start_instance() {
  pg_ctl start --pgdata "$DATA" --wait --timeout 60 --log "$JOB/server.log" --options "-c config_file=$JOB/empty.conf \
    -c hba_file=$JOB/hba -c listen_addresses= -c unix_socket_directories=$_sock -c port=5432 -c archive_mode=on -c archive_command= \
    -c ssl=off -c primary_conninfo= -c primary_slot_name= -c shared_preload_libraries= -c hot_standby=on \
    $_as_before -c logging_collector=off -c log_destination=stderr -c autovacuum=off $*" >&2 8>&- || :
}
ask() { psql -X -A -t -q -d postgres -c "$1" 2>/dev/null; }
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 "$@"; }
# pg_ctl ends well for a recovery that dies a moment later.
await() {
  until [ "$(ask "$1")" = t ]; do
    pg_ctl status --pgdata "$DATA" >/dev/null || { say "the recovery has ended: $(grep -E 'FATAL|PANIC' "$JOB/server.log" | tail -n 2)"; exit 1; }
    sleep 0.2
  done
}
count() { sql -d "$DATABASE" -f "$JOB/count.sql" >"$JOB/rows.jsonl"; }
start_instance
_counting=$(now) _counted=$(now)
if [ "$COUNT_LSN" != - ] && [ "$END_LSN" != - ]; then
  await "SELECT pg_get_wal_replay_pause_state() = 'paused'"
  _counting=$(now)
  count
  pg_ctl stop --pgdata "$DATA" --mode fast --wait --timeout 300 >&2
  _counted=$(now)
  start_instance -c "recovery_target_lsn=$END_LSN" -c recovery_target_action=promote
fi
await 'SELECT NOT pg_is_in_recovery()'
_replayed=$(now)
_reached=$(sql -d postgres <<'SQL'
SELECT json_build_object('last_commit_at', extract(epoch FROM pg_last_xact_replay_timestamp()), 'lsn', pg_last_wal_replay_lsn(),
  'timeline', ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'tablespaces', (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')))
SQL
)
if [ "$END_LSN" = - ]; then
  # Its files were left out, so it can't be connected to; the dump makes it anew, with its owner, rights and settings.
  sql -d postgres -c "DROP DATABASE \"$DATABASE\""
  _dump=$(find "$JOB/dump" -mindepth 1 -maxdepth 1)
  # Stopped at the first error: what pg_restore goes on after is lost.
  pg_restore --create --dbname=postgres --exit-on-error --jobs="$PROCESSES" --use-list="$JOB/critical.list" "$_dump" >&2
  sql -d "$DATABASE" -1 -f "$JOB/guard.sql" <"$JOB/guarded"
  sql -d "$DATABASE" -c ANALYZE
  count
fi
pg_ctl stop --pgdata "$DATA" --mode fast --wait --timeout 300 >&2
_ended=$(now)
awk -v began="$_began" -v restored="$_restored" -v counting="$_counting" -v counted="$_counted" -v replayed="$_replayed" -v ended="$_ended" \
  -v bytes="$_bytes" -v reached="$_reached" 'BEGIN {
  printf "{\"seconds\": %.3f, \"restore_seconds\": %.3f, \"replay_seconds\": %.3f, \"load_seconds\": %.3f, \"restored_bytes\": %d, \"reached\": %s}\n",
    ended - began, restored - began, replayed - restored - (counted - counting), counted - counting + ended - replayed, bytes, reached }' >"$JOB/result.json.part"
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
  for _file in count.sql guard.sql job.sh; do mv "$_job/$_file.$$" "$_job/$_file"; done
  rm -f "$_job/failed"
  PGBACKREST_REPO1_CIPHER_PASS=$_passphrase PGBACKREST_REPO1_S3_KEY=$_key PGBACKREST_REPO1_S3_KEY_SECRET=$_secret
  export PGBACKREST_REPO1_CIPHER_PASS PGBACKREST_REPO1_S3_KEY PGBACKREST_REPO1_S3_KEY_SECRET
  JOB=$_job CONFIG=$3 STANZA=$4 SET=$5 COUNT_LSN=$6 END_LSN=$7 TIMELINE=$8 DATA=$9 DATABASE=${11} PROCESSES=${12} NEED_BYTES=${13}
  PATH=${10}:$PATH
  export JOB CONFIG STANZA SET COUNT_LSN END_LSN TIMELINE DATA DATABASE PROCESSES NEED_BYTES PATH
  setsid timeout -k 90 "${14}" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
