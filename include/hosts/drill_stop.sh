# drill_stop.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB MAJOR_VERSION: ends a drill's instance and removes what it restored.
# Nothing but the job's own directory is touched. Prints "stopped" or "absent".
fence "$1" "$2" "$3" "$4"
shift 4
case $2 in '' | */* | .*) fail "'$2' is no job" ;; esac
_job=$1/$2
PATH=/usr/lib/postgresql/$3/bin:$PATH
[ -d "$_job" ] || { echo absent; exit 0; }
# A restore that still works is ended by its own group; timeout(1) leads it.
_leader=$(cat "$_job/leader" 2>/dev/null) || _leader=
[ -z "$_leader" ] || kill -TERM -- "-$_leader" 2>/dev/null || :
exec 8>>"$_job/lock"
flock -w 60 8 || fail "the restore in $_job does not end"
[ ! -f "$_job/data/postmaster.pid" ] || pg_ctl stop --pgdata "$_job/data" --mode fast --wait --timeout 60 >&2 8>&- || fail "the instance in $_job/data does not stop"
_sock=$(cat "$_job/sock" 2>/dev/null) || _sock=
case $_sock in /tmp/sebenza-drill.*) rm -rf "$_sock" ;; esac
rm -rf "$_job"
echo stopped
