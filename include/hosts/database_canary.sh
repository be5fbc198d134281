# database_canary.sh write|drop BIN HOST PORT USER DATABASE TABLE TOKEN
# Writes a row as the application does, through the address that leads to the primary; or drops its table.
# The password is standard input's first line. "write" prints the address of the server that took it.
IFS= read -r PGPASSWORD || :
PGHOST=$3 PGPORT=$4 PGUSER=$5 PGDATABASE=$6 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-canary
PGOPTIONS='-c client_min_messages=warning -c statement_timeout=10000'
export PGPASSWORD PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME PGOPTIONS
sql() { "$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v table="$_table" -v token="$_token"; }
_bin=$2 _table=$7 _token=$8
case $1 in
  write)
    sql <<'SQL'
CREATE TABLE IF NOT EXISTS :"table" (token text PRIMARY KEY, written_at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO :"table" (token) VALUES (:'token') ON CONFLICT DO NOTHING;
SELECT host(inet_server_addr());
SQL
    ;;
  drop)
    sql <<'SQL'
DROP TABLE IF EXISTS :"table"
SQL
    ;;
  *) fail "write or drop, not '$1'" ;;
esac
