# backup_prune.sh STATE_DIR ENVIRONMENT TOKEN HOLDER WORK_DIR KEEP_DAYS [JOB...]: removes dumps and logs of jobs that are older
# than so many days, but the named ones and those that work. Prints what was removed.
fence "$1" "$2" "$3" "$4"
shift 4
_dir=$1 _days=$2
shift 2
find "$_dir" -mindepth 1 -maxdepth 1 -type d -name '????????????????????????????????-*' -mmin "+$((_days * 1440))" | while IFS= read -r _job; do
  for _kept in "$@"; do
    case ${_job##*/} in "$_kept"*) continue 2 ;; esac
  done
  # One that works keeps its lock.
  (flock -n 8 && rm -rf "$_job" && basename "$_job") 8>>"$_job/lock" || :
done
