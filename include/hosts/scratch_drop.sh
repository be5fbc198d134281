# scratch_drop.sh MAJOR_VERSION HOST PORT USER DATABASE SCRATCH: removes a copy; the password is standard input's first line.
case $6 in "$5"_mtest_*_*) ;; *) fail "'$6' is no name of a copy of $5" ;; esac
IFS= read -r PGPASSWORD || :
PGHOST=$2 PGPORT=$3 PGUSER=$4 PGDATABASE=$5 PGCONNECT_TIMEOUT=10
export PGPASSWORD PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT
PATH=/usr/lib/postgresql/$1/bin:$PATH
psql -X -q -v ON_ERROR_STOP=1 -c "DROP DATABASE IF EXISTS \"$6\" WITH (FORCE)"
