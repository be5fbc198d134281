# database_slot_drop.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN SOCKET_DIR PORT SLOT
# Drops a slot that nobody uses: one that stays on a replica keeps its WAL for ever. Prints "dropped", "absent" or "active".
fence "$1" "$2" "$3" "$4"
shift 4
cd /
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-switch
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
sql() { "$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v slot="$_slot" 9>&-; }
_bin=$1 _slot=$4
_active=$(sql <<'SQL'
SELECT active FROM pg_replication_slots WHERE slot_name = :'slot'
SQL
)
case $_active in
  f)
    sql >/dev/null <<'SQL'
SELECT pg_drop_replication_slot(:'slot')
SQL
    echo dropped
    ;;
  t) echo active ;;
  *) echo absent ;;
esac
