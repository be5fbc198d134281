# database_promote.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN SOCKET_DIR PORT SYSTEM_IDENTIFIER TIMELINE MINIMUM_LSN SLOT EXPIRES_AT TIMEOUT_SECONDS
# Makes a replica the primary, with the slot of the one that will follow it ("-": none). MINIMUM_LSN, in bytes: it has replayed so
# much within 10 s, or it is refused. Prints "promoted" or "already", the timeline, and the position that it had replayed.
fence "$1" "$2" "$3" "$4"
shift 4
cd /
# A command that was held up on its way must not make a primary by surprise.
[ "$(date +%s)" -le "$8" ] || fail "it came too late, nothing was changed: it was good until $8, this host's clock says $(date +%s)"
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-switch
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
_bin=$1 _system=$4 _timeline=$5 _minimum=$6 _slot=$7 _timeout=$9
sql() { "$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v slot="$_slot" -v minimum="$_minimum" -v seconds="$_timeout" "$@" 9>&-; }
_found=$(sql -c "SELECT system_identifier FROM pg_control_system()")
[ "$_found" = "$_system" ] || fail "this is the cluster $_found, not $_system: it was not promoted"
now_timeline() {
  sql -c "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
}
if [ "$(sql -c 'SELECT pg_is_in_recovery()')" = f ]; then
  [ "$(now_timeline)" -gt "$_timeline" ] || fail "this server is the primary of timeline $(now_timeline) already, which is not expected"
  printf 'already %s -\n' "$(now_timeline)"
  exit 0
fi
_give_up_at=$(($(date +%s) + 10))
while :; do
  _replayed=$(sql <<'SQL'
SELECT pg_last_wal_replay_lsn() WHERE pg_last_wal_replay_lsn() - '0/0'::pg_lsn >= :minimum
SQL
)
  if [ -n "$_replayed" ] || [ "$(date +%s)" -ge "$_give_up_at" ]; then break; fi
  sleep 0.02
done
[ -n "$_replayed" ] || fail "it has not replayed as much as was expected ($_minimum): it was not promoted"
sql >/dev/null <<'SQL'
SELECT pg_create_physical_replication_slot(:'slot', true)
WHERE :'slot' <> '-' AND NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = :'slot')
SQL
_done=$(sql <<'SQL'
SELECT pg_promote(true, :seconds)
SQL
)
[ "$_done" = t ] || fail "it did not become a primary within $_timeout s"
printf 'promoted %s %s\n' "$(now_timeline)" "$_replayed"
