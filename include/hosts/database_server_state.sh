# database_server_state.sh BIN DATA SOCKET_DIR PORT: what a PostgreSQL server is, by itself and by its files; changes nothing.
# First line: "yes" and a JSON object, "no", or "unresponsive" and why. Then "signal" or "-", then its control file.
cd /
_bin=$1 _data=$2
PGHOST=$3 PGPORT=$4 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=3 PGAPPNAME=sebenza-state LC_ALL=C
PGOPTIONS='-c statement_timeout=4000 -c default_transaction_read_only=on'
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME PGOPTIONS LC_ALL
_status=0
_said=$(timeout 6 "$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 2>&1 <<'SQL'
SELECT json_build_object(
  'in_recovery', r,
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'timeline', CASE WHEN r THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
      (SELECT received_tli FROM pg_stat_wal_receiver))
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
  'lsn', (CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END) - '0/0'::pg_lsn,
  'receive_lsn', (CASE WHEN r THEN pg_last_wal_receive_lsn() END) - '0/0'::pg_lsn,
  'last_commit_at', CASE WHEN r THEN extract(epoch FROM pg_last_xact_replay_timestamp()) END,
  'replay_paused', CASE WHEN r THEN pg_is_wal_replay_paused() ELSE false END,
  'receiver', (SELECT json_build_object('status', status, 'host', sender_host, 'slot', slot_name)
    FROM pg_stat_wal_receiver),
  'senders', coalesce((SELECT json_agg(json_build_object('slot', s.slot_name, 'state', a.state,
      'flushed', a.flush_lsn - '0/0'::pg_lsn, 'replayed', a.replay_lsn - '0/0'::pg_lsn))
    FROM pg_stat_replication a LEFT JOIN pg_replication_slots s ON s.active_pid = a.pid), '[]'),
  'slots', coalesce((SELECT json_object_agg(slot_name, active) FROM pg_replication_slots), '{}'),
  'clients', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
  'synchronous', current_setting('synchronous_standby_names'),
  'size_bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database),
  'rewindable', current_setting('wal_log_hints') = 'on' OR current_setting('data_checksums') = 'on',
  'tablespaces', (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'now', extract(epoch FROM clock_timestamp()))
FROM (SELECT pg_is_in_recovery() AS r) AS s
SQL
) || _status=$?
if [ "$_status" -eq 0 ]; then
  printf 'yes %s\n' "$(printf %s "$_said" | tr '\n' ' ')"
else
  _running=0
  "$_bin/pg_ctl" status -D "$_data" >/dev/null 2>&1 || _running=$?
  case $_running in
    0) printf 'unresponsive %s\n' "$(printf %s "${_said:-it does not answer within 6 s}" | tr '\n' ' ')" ;;
    3) echo no ;;
    *) fail "there is no cluster in $_data, or $(id -un) may not read it: $(printf %s "$_said" | tr '\n' ' ')" ;;
  esac
fi
if [ -e "$_data/standby.signal" ]; then echo signal; else echo -; fi
"$_bin/pg_controldata" -D "$_data"
