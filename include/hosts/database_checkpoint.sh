# database_checkpoint.sh STATE_DIR ENVIRONMENT TOKEN HOLDER BIN SOCKET_DIR PORT REWIND_ROLE SLOT
# Writes a checkpoint: a server that stops after one stops soon, and a former primary can be rewound to one that has it.
# SLOT, unless it is "-", is there, and anew when it has lost the WAL that it was to keep. REWIND_ROLE, unless it is "-", may do what pg_rewind needs from now on (pg_rewind, Notes).
fence "$1" "$2" "$3" "$4"
shift 4
cd /
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGDATABASE=postgres PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-switch
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
"$1/psql" -X -q -v ON_ERROR_STOP=1 -c CHECKPOINT 9>&-
if [ "$5" != - ]; then
  "$1/psql" -X -q -v ON_ERROR_STOP=1 -v slot="$5" 9>&- >/dev/null <<'SQL'
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_name = :'slot' AND NOT active AND wal_status IN ('lost', 'unreserved');
SELECT pg_create_physical_replication_slot(:'slot', true)
WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = :'slot');
SQL
fi
[ "$4" = - ] && exit 0
"$1/psql" -X -q -v ON_ERROR_STOP=1 -v role="$4" 9>&- <<'SQL'
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO :"role";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO :"role";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO :"role";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO :"role";
SQL
