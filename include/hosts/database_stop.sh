# database_stop.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN DATA TIMEOUT_SECONDS
# Stops the server's main process as "pg_ctl stop -m fast" does, and waits for its end; a service manager that starts it
# again gets a replica: refused without standby.signal. Prints "stopped" or "stopping".
fence "$1" "$2" "$3" "$4"
shift 4
_bin=$1 _data=$2
[ -e "$_data/standby.signal" ] || fail "$_data has no standby.signal: it would come back as a primary, it was not stopped"
# pg_ctl waits for the file to go, which another server may have written by then.
_pid=$(head -n 1 "$_data/postmaster.pid" 2>/dev/null) || _pid=
if [ -n "$_pid" ] && "$_bin/pg_ctl" status -D "$_data" >/dev/null 2>&1; then
  kill -INT "$_pid" 2>/dev/null || :
  _give_up_at=$(($(date +%s) + $3))
  while kill -0 "$_pid" 2>/dev/null; do
    if [ "$(date +%s)" -ge "$_give_up_at" ]; then
      echo stopping
      exit 0
    fi
    sleep 0.02
  done
fi
echo stopped
