# database_settle.sh STATE_DIR ENVIRONMENT TOKEN HOLDER MAJOR_VERSION HOST PORT USER DATABASE RESTORED ASIDE
# After a database rollback that has ended, well or badly: users are let in, and a copy that was not used is removed.
# The password is standard input's first line. Prints "exchanged" or "unchanged", then what was done.
fence "$1" "$2" "$3" "$4"
shift 4
_database=$5 _restored=$6 _aside=$7
case $_restored in "$_database"_rb_*) ;; *) fail "'$_restored' is no name of a restored copy of $_database" ;; esac
IFS= read -r PGPASSWORD || :
PGHOST=$2 PGPORT=$3 PGUSER=$4 PGDATABASE=postgres PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-settle
export PGPASSWORD PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
PATH=/usr/lib/postgresql/$1/bin:$PATH
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 -v database="$_database" -v restored="$_restored" -v aside="$_aside" "$@"; }
there() {
  sql -v name="$1" <<'SQL'
SELECT datname FROM pg_database WHERE datname = :'name'
SQL
}
_live=$(there "$_database") _copy=$(there "$_restored") _old=$(there "$_aside")
[ -n "$_live" ] || fail "there is no database $_database: $_restored is ${_copy:-not there}, $_aside is ${_old:-not there}; rename one of them"
if [ -n "$_old" ]; then echo exchanged; else echo unchanged; fi
_closed=$(sql <<'SQL'
SELECT datname FROM pg_database WHERE datname = :'database' AND NOT datallowconn
SQL
)
if [ -n "$_closed" ]; then
  sql -c "ALTER DATABASE \"$_database\" ALLOW_CONNECTIONS true"
  echo "$_database lets users in again"
fi
if [ -n "$_copy" ]; then
  sql -c "DROP DATABASE \"$_restored\" WITH (FORCE)"
  echo "$_restored, the copy that was not used, is removed"
fi
