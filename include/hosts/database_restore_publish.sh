# database_restore_publish.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN SOCKET_DIR PORT RESTORED TARGET OID: gives a restored database
# (whose oid is OID) its name. Prints "published" or "already".
fence "$1" "$2" "$3" "$4"
shift 4
cd /
case $4 in sebenza_restore_????????????) ;; *) fail "'$4' is no name of a database that is being restored" ;; esac
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-restore
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
_bin=$1
sql() { "$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v restored="$_restored" -v target="$_target" 9>&-; }
_restored=$4 _target=$5
_there=$(sql <<'SQL'
SELECT coalesce((SELECT oid::text FROM pg_database WHERE datname = :'target'), '-')
SQL
)
if [ "$_there" = "$6" ]; then
  echo already
  exit 0
fi
[ "$_there" = - ] || fail "database $_target was made meanwhile by somebody else: nothing was renamed"
_copy=$(sql <<'SQL'
SELECT coalesce((SELECT oid::text FROM pg_database WHERE datname = :'restored'), '-')
SQL
)
[ "$_copy" = "$6" ] || fail "$_restored is not the database that was restored (oid $_copy, not $6): nothing was renamed"
sql <<'SQL'
ALTER DATABASE :"restored" RENAME TO :"target"
SQL
echo published
