# dump_start.sh WORK_DIR RUN MAJOR_VERSION HOST PORT USER DATABASE TIMEOUT_SECONDS; the password is standard input's first line.
# Starts a logical dump, detached, and its verification; one of the same run that works or is done is left alone.
# Prints "started", "running" or "done".
_job=$1/$2
umask 077
mkdir -p "$_job"
# Dumps of runs that came to no end.
find "$1" -mindepth 1 -maxdepth 1 -type d -mmin +1440 ! -path "$_job" -exec rm -rf {} +
IFS= read -r PGPASSWORD || :
export PGPASSWORD
PGHOST=$4 PGPORT=$5 PGUSER=$6 PGDATABASE=$7 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-dump
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
cat >"$_job/dump.sh.$$" <<'DUMP'
set -eu
umask 077
_job=$1 _bin=$2
PATH=$_bin:$PATH
trap 'code=$?; [ "$code" -eq 0 ] || { rm -f "$_job/dump.pgc"; echo "$code" >"$_job/failed"; }' EXIT
trap 'exit 143' TERM
_database_bytes=$(psql -X -A -t -c 'SELECT pg_database_size(current_database())')
_free_kib=$(df -Pk "$_job" | awk 'NR == 2 {print $4}')
# Tables without their indexes, compressed: rarely half of the database. A dump that needs more fails all the same.
_need_kib=$((_database_bytes / 2048 + 65536))
if [ "$_free_kib" -lt "$_need_kib" ]; then
  echo "disk full: $_free_kib KiB free in $_job, $_need_kib KiB needed" >&2
  exit 1
fi
_began=$(date +%s)
# Into a file, not a pipe: the exit status is pg_dump's own. No lock is waited for while a migration holds it.
pg_dump --format=custom --lock-wait-timeout=30000 --file="$_job/dump.pgc"
# The list is read from the file's head alone; only reading all of it shows that all of it is there.
_entries=$(pg_restore --list "$_job/dump.pgc" | grep -c '^[0-9]' || :)
[ "$_entries" -gt 0 ] || { echo "the dump holds nothing" >&2; exit 1; }
pg_restore --file=/dev/null "$_job/dump.pgc"
_ended=$(date +%s)
sync "$_job/dump.pgc"
_sha256=$(sha256sum "$_job/dump.pgc" | cut -d' ' -f1)
printf '{"size_bytes": %s, "sha256": "%s", "seconds": %s, "entries": %s, "made_with": "%s"}\n' \
  "$(stat -c %s "$_job/dump.pgc")" "$_sha256" "$((_ended - _began))" "$_entries" "$(pg_dump --version)" >"$_job/result.json.part"
mv "$_job/result.json.part" "$_job/result.json"
DUMP
mv "$_job/dump.sh.$$" "$_job/dump.sh"
# The detached dump inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  echo running
elif [ -f "$_job/result.json" ]; then
  echo done
else
  rm -f "$_job/failed" "$_job/dump.pgc"
  _bin=/usr/lib/postgresql/$3/bin
  setsid timeout -k 10 "$8" sh "$_job/dump.sh" "$_job" "$_bin" >"$_job/log" 2>&1 </dev/null &
  echo started
fi
