# database_stop.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN DATA SOCKET_DIR PORT DRAIN_MS TIMEOUT_SECONDS
# Ends the clients' sessions as each becomes idle, so that what runs may end first; then stops the server's main process
# as "pg_ctl stop -m fast" does. A service manager that starts it again gets a replica: refused without standby.signal.
# Prints how many sessions were broken off ("-" when it was down), then "stopped" or "stopping", then where it ended
# ("-" when its files do not say so any more).
fence "$1" "$2" "$3" "$4"
shift 4
cd /
_bin=$1 _data=$2
PGHOST=$3 PGPORT=$4 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=3 PGAPPNAME=sebenza-switch LC_ALL=C
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME LC_ALL
case $5$6 in *[!0-9]*) fail "'$5' or '$6' is no number" ;; esac
[ -e "$_data/standby.signal" ] || fail "$_data has no standby.signal: it would come back as a primary, it was not stopped"
_left=-
# pg_ctl waits for the file to go, which another server may have written by then.
_pid=$(head -n 1 "$_data/postmaster.pid" 2>/dev/null) || _pid=
if [ -n "$_pid" ] && "$_bin/pg_ctl" status -D "$_data" >/dev/null 2>&1; then
  _left=$("$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 9>&- <<SQL || :
DO \$drain\$
DECLARE
  give_up_at CONSTANT timestamptz := clock_timestamp() + interval '$5 milliseconds';
  remaining bigint;
BEGIN
  LOOP
    -- Within one transaction it would go on to show what it has shown.
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state = 'idle';
    SELECT count(*) INTO remaining FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid();
    EXIT WHEN remaining = 0 OR clock_timestamp() >= give_up_at;
    PERFORM pg_sleep(0.01);
  END LOOP;
  PERFORM set_config('sebenza.remaining', remaining::text, false);
  -- The server ends when whoever streams has everything. A replica of the pair has a slot; another site's standby, which
  -- comes back by itself, may be out of reach.
  PERFORM pg_terminate_backend(pid) FROM pg_stat_replication
    WHERE pid NOT IN (SELECT active_pid FROM pg_replication_slots WHERE active_pid IS NOT NULL);
END
\$drain\$;
SELECT current_setting('sebenza.remaining');
SQL
)
  kill -INT "$_pid" 2>/dev/null || :
  _give_up_at=$(($(date +%s) + $6))
  while kill -0 "$_pid" 2>/dev/null; do
    if [ "$(date +%s)" -ge "$_give_up_at" ]; then
      printf '%s stopping -\n' "${_left:--}"
      exit 0
    fi
    sleep 0.01
  done
fi
_end=$("$_bin/pg_controldata" -D "$_data" | awk -F: '
  $1 == "Database cluster state" { clean = $2 ~ /^ *shut down/ }
  $1 == "Latest checkpoint location" { gsub(/ /, "", $2); lsn = $2 }
  END { print clean ? lsn : "-" }')
printf '%s stopped %s\n' "${_left:--}" "$_end"
