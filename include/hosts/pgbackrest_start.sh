# pgbackrest_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB CONFIG STANZA TIMEOUT_SECONDS GRACE_SECONDS COMMAND [OPTION...]
# Starts a command of pgBackRest, detached; one of the same job that works or is done is left alone. dump_status.sh tells
# how it stands, its log has what pgBackRest said. Prints "started", "running" or "done".
fence "$1" "$2" "$3" "$4"
shift 4
_job=$1/$2 _config=$3 _stanza=$4 _timeout=$5 _grace=$6
shift 6
case $1 in backup | verify | expire | check) ;; *) fail "'$1' is no command that is run here" ;; esac
umask 077
mkdir -p "$_job"
cat >"$_job/job.sh.$$" <<'JOB'
set -u
umask 077
_job=$1 _grace=$2
shift 2
_pid=
# A storage that hangs keeps its processes for minutes after the error was told: the whole group goes.
end_group() { [ -z "$_pid" ] || kill -KILL -- "-$_pid" 2>/dev/null || :; }
trap 'end_group; [ -f "$_job/result.json" ] || echo 1 >"$_job/failed"' EXIT
trap 'echo "ended from outside, or after its time" >>"$_job/log"; exit 143' TERM INT HUP
_began=$(date +%s)
setsid "$@" >"$_job/log" 2>&1 </dev/null &
_pid=$!
(
  # The lock is the command's: a watcher that outlives it must not keep it.
  exec 8>&-
  _left=$_grace
  while sleep 1 && kill -0 "$_pid" 2>/dev/null; do
    grep -q 'ERROR: \[' "$_job/log" || continue
    _left=$((_left - 1))
    [ "$_left" -gt 0 ] || { kill -KILL -- "-$_pid"; break; }
  done
) >/dev/null 2>&1 &
_dog=$!
_code=0
wait "$_pid" || _code=$?
kill "$_dog" 2>/dev/null || :
[ "$_code" -eq 0 ] || { echo "pgbackrest ended with $_code" >>"$_job/log"; exit "$_code"; }
printf '{"seconds": %s}\n' "$(($(date +%s) - _began))" >"$_job/result.json.part"
mv "$_job/result.json.part" "$_job/result.json"
JOB
# The detached command inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  rm -f "$_job/job.sh.$$"
  echo running
elif [ -f "$_job/result.json" ]; then
  rm -f "$_job/job.sh.$$"
  echo done
else
  mv "$_job/job.sh.$$" "$_job/job.sh"
  rm -f "$_job/failed"
  setsid timeout -k 15 "$_timeout" sh "$_job/job.sh" "$_job" "$_grace" pgbackrest "--config=$_config" "--stanza=$_stanza" \
    "$@" >/dev/null 2>"$_job/complaints" </dev/null 9>&- &
  echo started
fi
