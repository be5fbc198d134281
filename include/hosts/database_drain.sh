# database_drain.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN SOCKET_DIR PORT TIMEOUT_MS
# Ends the clients' sessions as each becomes idle: what runs may end first. Prints how many are left at the end.
fence "$1" "$2" "$3" "$4"
shift 4
cd /
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-switch
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
case $4 in '' | *[!0-9]*) fail "'$4' is no number of milliseconds" ;; esac
"$1/psql" -X -A -t -q -v ON_ERROR_STOP=1 9>&- <<SQL
DO \$drain\$
DECLARE
  give_up_at CONSTANT timestamptz := clock_timestamp() + interval '$4 milliseconds';
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
END
\$drain\$;
SELECT current_setting('sebenza.remaining');
SQL
