# dump_discard.sh WORK_DIR RUN: removes a dump that was sent, or that nobody needs. One that works is left alone.
_job=$1/$2
[ -d "$_job" ] || exit 0
exec 8>>"$_job/lock"
flock -n 8 || exit 0
rm -rf "$_job"
