# dump_status.sh WORK_DIR RUN: "done", "failed", "running" or "absent"; then the result, or the end of the log.
_job=$1/$2
if [ -f "$_job/lock" ] && ! flock -n "$_job/lock" true; then
  echo running
elif [ -f "$_job/result.json" ]; then
  echo done
  cat "$_job/result.json"
elif [ -f "$_job/failed" ]; then
  echo failed
  tail -n 10 "$_job/log"
else
  echo absent
fi
