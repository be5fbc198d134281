# point_restore_discard.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR JOB DATA BIN: ends a point_restore_start.sh of this job, and
# removes the copy that it has made, unless that has become the server. Prints "removed" or "absent".
fence "$1" "$2" "$3" "$4"
shift 4
case $3 in *.restored-????????????) ;; *) fail "'$3' is no name of a restored copy: nothing was removed" ;; esac
_job=$1/$2
if [ -f "$_job/lock" ] && ! flock -n "$_job/lock" true; then
  # timeout(1), which hands it on to all that it has started; the job removes what it has made.
  kill -TERM "$(cat "$_job/pid")" || :
  flock -w 100 "$_job/lock" true || fail "the restore in $3 does not end: look at it on the host"
fi
[ ! -f "$3/postmaster.pid" ] || "$4/pg_ctl" stop --pgdata "$3" --mode immediate --wait --timeout 60 >&2 9>&- || :
_was=absent
[ ! -d "$3" ] || _was=removed
rm -rf "$3" "/tmp/sebenza-${3##*.}" "$_job/result.json"
echo "$_was"
