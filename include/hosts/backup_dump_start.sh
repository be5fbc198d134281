# backup_dump_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB MAJOR_VERSION SOCKET_DIR PORT DATABASE FORMAT PROCESSES
#   COMPRESSION_LEVEL PIECE_BYTES MINIMUM_FREE_BYTES TIMEOUT_SECONDS
# Counts all rows and dumps the database in one snapshot, detached, and verifies the dump; one of the same job that works
# or is done is left alone. FORMAT is directory, custom or none (rows only). dump_status.sh tells how it stands; the file
# `snapshot` in the job's directory has the snapshot's LSN, once it is taken. Prints "started", "running" or "done". Run as the owner of the
# cluster.
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2
case $7 in directory | custom | none) ;; *) fail "'$7' is no format" ;; esac
umask 077
mkdir -p "$_job"
_bin=/usr/lib/postgresql/$3/bin
PGHOST=$4 PGPORT=$5 PGDATABASE=$6 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-backup
export PGHOST PGPORT PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
cat >"$_job/count.sql.$$" <<'SQL'
\set ON_ERROR_STOP 1
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET lock_timeout = '30s';
SET timezone = 'UTC';
-- Rows that a policy hides would not be counted: then it fails.
SET row_security = off;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
-- The first statement takes the snapshot: the LSN is of the same moment, as nearly as can be.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn \gset
SELECT pg_export_snapshot() AS snapshot \gset
\setenv SNAPSHOT :snapshot
\setenv LSN :lsn
\! printf '%s\n' "$LSN" >"$JOB/snapshot.part" && mv "$JOB/snapshot.part" "$JOB/snapshot"
\o :manifest
SELECT json_build_object('what', 'database', 'name', current_database(), 'at', now(), 'in_recovery', pg_is_in_recovery(),
  'lsn', :'lsn', 'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'size_bytes', pg_database_size(current_database()), 'server_version', current_setting('server_version'));
SELECT 'SELECT json_build_object(''what'', ''schema'', ''revision'', (SELECT coalesce(max(number), 0) FROM schema_migrations WHERE finished_at IS NOT NULL))'
WHERE to_regclass('schema_migrations') IS NOT NULL \gexec
SELECT format('SELECT json_build_object(''what'', ''table'', ''name'', %L, ''rows'', count(*)) FROM ONLY %I.%I',
  format('%s.%s', n.nspname, c.relname), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 \gexec
\o
\! sh "$JOB/dump.sh"
COMMIT;
SQL
cat >"$_job/dump.sh.$$" <<'DUMP'
# Run inside the session that has the snapshot open; psql does not tell how it ends, so it leaves a file.
set -eu
umask 077
[ "$FORMAT" != none ] || { : >"$JOB/dumped"; exit 0; }
set -- --format="$FORMAT" --snapshot="$SNAPSHOT" --compress="$COMPRESSION_LEVEL" --lock-wait-timeout=30000 --no-sync
if [ "$FORMAT" = directory ]; then set -- "$@" --jobs="$PROCESSES"; fi
mkdir -p "$JOB/dump"
if [ "$FORMAT" = custom ]; then set -- "$@" --file="$JOB/dump/database.pgc"; else set -- "$@" --file="$JOB/dump/database"; fi
pg_dump "$@"
: >"$JOB/dumped"
DUMP
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
trap 'code=$?; [ "$code" -eq 0 ] || { rm -rf "$JOB/dump"; echo "$code" >"$JOB/failed"; }' EXIT
trap 'exit 143' TERM
say() { printf '%s\n' "$*" >&2; }
_began=$(date +%s)
rm -rf "$JOB/dump" "$JOB/dumped" "$JOB/snapshot" "$JOB/manifest.jsonl" "$JOB/tables"
_free_kib=$(df -Pk "$JOB" | awk 'NR == 2 {print $4}')
_need_kib=$((MINIMUM_FREE_BYTES / 1024))
if [ "$FORMAT" != none ]; then
  _database_bytes=$(psql -X -A -t -c 'SELECT pg_database_size(current_database())')
  # Tables without their indexes, compressed: rarely half of the database. A dump that needs more fails all the same.
  _need_kib=$((_need_kib + _database_bytes / 2048))
fi
if [ "$_free_kib" -lt "$_need_kib" ]; then
  say "disk full: $_free_kib KiB free in $JOB, $_need_kib KiB needed"
  exit 1
fi
psql -X -A -t -q -v ON_ERROR_STOP=1 -v manifest="$JOB/manifest.jsonl" -f "$JOB/count.sql" >&2
[ -f "$JOB/dumped" ] || { say "the dump has failed"; exit 1; }
[ -s "$JOB/manifest.jsonl" ] || { say "the manifest is empty"; exit 1; }
_entries=0
: >"$JOB/tables"
if [ "$FORMAT" != none ]; then
  _dump=$(find "$JOB/dump" -mindepth 1 -maxdepth 1)
  # The list is read from the head alone; only reading all of it shows that all of it is there.
  pg_restore --list "$_dump" >"$JOB/list"
  _entries=$(grep -c '^[0-9]' "$JOB/list" || :)
  [ "$_entries" -gt 0 ] || { say "the dump holds nothing"; exit 1; }
  sed -n 's/^[0-9]*; [0-9]* [0-9]* TABLE DATA \(.*\) [^ ]*$/\1/p' "$JOB/list" >"$JOB/tables"
  pg_restore --file=/dev/null "$_dump"
  find "$JOB/dump" -type f -exec sync {} +
fi
_ended=$(date +%s)
# Every file in pieces that an upload takes.
pieces() {
  [ -d "$JOB/dump" ] || return 0
  (cd "$JOB/dump" && find . -type f | sed 's|^\./||' | LC_ALL=C sort) | while IFS= read -r _file; do
    _size=$(stat -c %s "$JOB/dump/$_file") _offset=0
    while :; do
      _length=$((_size - _offset))
      [ "$_length" -le "$PIECE_BYTES" ] || _length=$PIECE_BYTES
      _sum=$(tail -c "+$((_offset + 1))" "$JOB/dump/$_file" | head -c "$_length" | sha256sum | cut -d' ' -f1)
      printf '%s{"name": "%s", "offset": %s, "size_bytes": %s, "sha256": "%s"}' "${_comma:-}" "$_file" "$_offset" "$_length" "$_sum"
      _comma=', '
      _offset=$((_offset + _length))
      [ "$_offset" -lt "$_size" ] || break
    done
  done
}
printf '{"seconds": %s, "entries": %s, "made_with": "%s", "pieces": [%s]}\n' \
  "$((_ended - _began))" "$_entries" "$(pg_dump --version)" "$(pieces)" >"$JOB/result.json.part"
mv "$JOB/result.json.part" "$JOB/result.json"
JOB
# The detached dump inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  rm -f "$_job"/*.$$
  echo running
elif [ -f "$_job/result.json" ]; then
  rm -f "$_job"/*.$$
  echo done
else
  for _file in count.sql dump.sh job.sh; do mv "$_job/$_file.$$" "$_job/$_file"; done
  rm -f "$_job/failed" "$_job/snapshot"
  setsid env JOB="$_job" PATH="$_bin:$PATH" FORMAT="$7" PROCESSES="$8" COMPRESSION_LEVEL="$9" PIECE_BYTES="${10}" \
    MINIMUM_FREE_BYTES="${11}" timeout -k 10 "${12}" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
