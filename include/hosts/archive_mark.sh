# archive_mark.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN SOCKET_DIR PORT NAME
# Writes a commit into the WAL of a primary, so that every moment until now can be told from what came later; unless NAME is
# "-", a restore point of that name before it. Prints the restore point's position, or "-".
fence "$1" "$2" "$3" "$4"
shift 4
cd /
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-restore
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
sql() { "$1/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v name="$2" 9>&-; }
if [ "$4" = - ]; then
  echo -
else
  sql "$1" "$4" <<'SQL'
SELECT pg_create_restore_point(:'name')
SQL
fi
sql "$1" "$4" >/dev/null <<'SQL'
SELECT pg_current_xact_id()
SQL
