# wal_now.sh MAJOR_VERSION SOCKET_DIR PORT: the LSN up to which a primary has written its WAL.
PGHOST=$2 PGPORT=$3 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-backup
export PGHOST PGPORT PGCONNECT_TIMEOUT PGAPPNAME
"/usr/lib/postgresql/$1/bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -d postgres -c 'SELECT pg_current_wal_lsn()'
