# backup_host_state.sh WORK_DIR MAJOR_VERSION SOCKET_DIR PORT DATABASE: what a backup needs to know of a database host, as
# one line of JSON. Run as the owner of the cluster. Changes nothing.
mkdir -p "$1"
_free_kib=$(df -Pk "$1" | awk 'NR == 2 {print $4}')
PGHOST=$3 PGPORT=$4 PGDATABASE=$5 PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-backup
PGOPTIONS='-c statement_timeout=20000 -c timezone=UTC'
export PGHOST PGPORT PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME PGOPTIONS
PATH=/usr/lib/postgresql/$2/bin:$PATH
psql -X -A -t -q -v ON_ERROR_STOP=1 -v free_kib="$_free_kib" <<'SQL'
SELECT json_build_object(
  'free_bytes', :free_kib::bigint * 1024,
  'in_recovery', pg_is_in_recovery(),
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'database_bytes', pg_database_size(current_database()),
  'streaming', coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false),
  'replay_lag_bytes', CASE WHEN pg_is_in_recovery() THEN
    greatest(0, pg_wal_lsn_diff(coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), pg_last_wal_replay_lsn())) END,
  'archive_mode', current_setting('archive_mode'),
  'archive_timeout_seconds', (SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout'),
  'archived_wal', a.last_archived_wal,
  'seconds_since_archived', extract(epoch FROM clock_timestamp() - a.last_archived_time),
  'is_failing', coalesce(a.last_failed_time > a.last_archived_time, a.last_failed_time IS NOT NULL),
  'failed_count', a.failed_count,
  'waiting', r.waiting,
  'oldest_waiting_seconds', extract(epoch FROM clock_timestamp() - r.oldest))
FROM pg_stat_archiver a, (
  SELECT count(*) AS waiting, min(modification) AS oldest FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') r;
SQL
