# scratch_clone.sh WORK_DIR MAJOR_VERSION HOST PORT USER DATABASE SCRATCH STALE_SECONDS; the password is standard input's first line.
# Copies a database into a new one beside it, on the same server, and removes copies that were left longer ago than
# STALE_SECONDS. The role needs CREATEDB and owns what it copies; extensions that only a superuser may create are left out.
case $7 in "$6"_mtest_*_*) ;; *) fail "'$7' is no name of a copy of $6" ;; esac
umask 077
IFS= read -r PGPASSWORD || :
PGHOST=$3 PGPORT=$4 PGUSER=$5 PGDATABASE=$6 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-migration-test
export PGPASSWORD PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
PATH=/usr/lib/postgresql/$2/bin:$PATH
_scratch=$7 _is_whole=no
mkdir -p "$1"
_work=$(mktemp -d "$1/clone-XXXXXX") || fail "cannot write in $1"
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 "$@"; }
clean_up() {
  # timeout(1) signals more than once, and what is started here must not be ended by the second.
  trap '' HUP INT TERM
  rm -rf "$_work"
  [ "$_is_whole" = yes ] || sql -c "DROP DATABASE IF EXISTS \"$_scratch\" WITH (FORCE)" >/dev/null 2>&1 || :
}
trap clean_up EXIT
trap 'trap "" HUP TERM; exit 129' HUP
trap 'trap "" HUP TERM; exit 143' TERM

# Names are built from letters, digits and _ alone, and from the time at which they were made.
_now=$(date +%s)
for _name in $(sql -c "SELECT datname FROM pg_database WHERE datname ~ '^$6_mtest_[0-9]+_[0-9a-f]+\$'"); do
  _made=${_name#"$6"_mtest_}
  _made=${_made%%_*}
  if [ "$((_now - _made))" -gt "$8" ]; then
    sql -c "DROP DATABASE IF EXISTS \"$_name\" WITH (FORCE)"
    echo "removed $_name, which an earlier test had left"
  fi
done
find "$1" -mindepth 1 -maxdepth 1 -type d -name 'clone-*' -mmin +1440 -exec rm -rf {} +

_bytes=$(sql -c 'SELECT pg_database_size(current_database())')
_free_kib=$(df -Pk "$_work" | awk 'NR == 2 {print $4}')
# The dump, and the copy where the server keeps it on the same disk.
_need_kib=$((_bytes * 3 / 2048 + 65536))
[ "$_free_kib" -ge "$_need_kib" ] || fail "disk full: $_free_kib KiB free in $1, $_need_kib KiB needed"

[ "$(sql -c 'SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user')" = t ] ||
  fail "role $5 may not create databases: as a superuser, ALTER ROLE \"$5\" CREATEDB"
sql -c "CREATE DATABASE \"$_scratch\" TEMPLATE template0"
# Into a file, not a pipe: each exit status is the program's own.
pg_dump --format=custom --compress=1 --no-owner --no-privileges --lock-wait-timeout=30000 --file="$_work/dump"
_trusted=$(sql -c "SELECT DISTINCT v.name FROM pg_available_extension_versions v JOIN pg_roles r ON r.rolname = current_user WHERE v.trusted OR r.rolsuper")
pg_restore --list "$_work/dump" | awk -v trusted="$_trusted" '
  BEGIN { n = split(trusted, names, "\n"); for (i = 1; i <= n; i++) may[names[i]] = 1 }
  $4 == "EXTENSION" && !($6 in may) { next }
  $4 == "COMMENT" && $6 == "EXTENSION" { next }
  { print }' >"$_work/list"
pg_restore --dbname="$_scratch" --exit-on-error --no-owner --no-privileges --use-list="$_work/list" "$_work/dump"
# The planner, and so the time that a migration takes, goes by these.
sql -d "$_scratch" -c ANALYZE
_is_whole=yes
