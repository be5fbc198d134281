# database_sql.sh MAJOR_VERSION HOST PORT USER DATABASE: runs standard input as SQL, the first line is the password; prints what it
# prints. Errors are terse: what they quote beside is somebody's data.
IFS= read -r PGPASSWORD || :
PGHOST=$2 PGPORT=$3 PGUSER=$4 PGDATABASE=$5 PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-refresh
export PGPASSWORD PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
"/usr/lib/postgresql/$1/bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v VERBOSITY=terse -v SHOW_CONTEXT=never -f -
