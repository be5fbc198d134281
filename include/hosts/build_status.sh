# build_status.sh WORK_DIR SHA: "done", "failed", "running" or "absent"; then the result, or the end of the log.
_job=$1/$2
if [ -f "$_job/result.json" ]; then
  echo done
  cat "$_job/result.json"
elif [ -f "$_job/lock" ] && ! flock -n "$_job/lock" true; then
  echo running
  tail -n 3 "$_job/log" 2>/dev/null || :
elif [ -f "$_job/failed" ]; then
  echo failed
  tail -n 30 "$_job/log"
else
  echo absent
fi
